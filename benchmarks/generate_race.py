"""Class images by Surgeon, lucent and horama: same model, classes, batch, gradient evaluations.

    pip install torch-lucent horama        # what is not installed is skipped, and said
    python benchmarks/generate_race.py [--classes 4] [--steps 64] [--rounds 3] [--threads 1]

EfficientNet-Lite0 with its real weights. Every library uses its own defaults for class images at
224 pixels; each image gets `steps` gradient evaluations (horama makes one image at a time from
several crops a step: their number is the batch, and it takes as many steps as that leaves).
Scores are measured by one and the same function. Step times are taken in turns, and compared by
CPU time per image and gradient evaluation, for wall-clock times of a shared machine say little.

All raise the logit alone; "natural" is Surgeon's default, which holds images to photos as well.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
import warnings

import torch
from real_weights import lite0_recipe

import surgeon
from surgeon.imaging.objectives import Logit
from surgeon_generate.scoring import scores_of
from surgeon_generate.tasks import Task

warnings.filterwarnings("ignore")


def by_surgeon(model, recipe, classes, steps, plus=""):
    with surgeon.operate(model, recipe) as subject:
        result = surgeon.run_probe(
            "generate", subject, classes=classes, steps=steps, batch=len(classes), views=0,
            plus=plus,
        )  # fmt: skip
    return torch.cat(list(result.images.values()))


def by_surgeon_natural(model, recipe, classes, steps):
    """Its default: held to what the batch norms remember of photos."""
    return by_surgeon(model, recipe, classes, steps, plus=None)


def by_lucent(model, recipe, classes, steps):
    import kornia
    from lucent.optvis import objectives, param, render, transform

    if not hasattr(kornia, "warp_affine"):  # where older releases of kornia had them
        from kornia.geometry import transform as moved

        kornia.warp_affine, kornia.get_rotation_matrix2d = (
            moved.warp_affine, moved.get_rotation_matrix2d,
        )  # fmt: skip
    wish = sum(objectives.channel("classifier", c, batch=i) for i, c in enumerate(classes))
    images = render.render_vis(
        model, wish, lambda: param.image(224, batch=len(classes)), thresholds=(steps,),
        transforms=[*transform.standard_transforms, lambda x: (x - 0.5) / 0.5],
        preprocess=False, progress=False, show_image=False, fixed_image_size=224,
    )  # fmt: skip
    return torch.from_numpy(images[-1]).permute(0, 3, 1, 2)


def by_horama(model, recipe, classes, steps):
    import horama

    crops, found = len(classes), []
    for index in classes:
        image, _ = horama.fourier(
            lambda x, index=index: model(x)[:, index].mean(), total_steps=max(steps // crops, 1),
            image_size=224, model_input_size=224, box_size=(0.8, 1.0), values_range=(-1, 1),
            crops_per_iteration=crops, device="cpu",
        )  # fmt: skip
        found.append(image.detach()[None])
    return torch.cat(found) / 2 + 0.5


LIBRARIES = {
    "surgeon": (by_surgeon, ()),
    "natural": (by_surgeon_natural, ()),
    "lucent": (by_lucent, ("lucent", "kornia")),
    "horama": (by_horama, ("horama",)),
}


def installed():
    """The libraries that are there; the others are named."""
    found = {}
    for name, (run, needs) in LIBRARIES.items():
        try:
            for module in needs:
                importlib.import_module(module)
            found[name] = run
        except ImportError as cause:
            print(f"skipped {name}: {cause}")
    return found


def score(model, recipe, images, classes):
    with surgeon.operate(model, recipe) as subject:
        tasks = [Task(str(c), Logit(c), c, 0) for c in classes]
        return scores_of(subject, images, tasks, (), views=8)


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    classes = [251, 968, 292, 340, 130, 817, 9, 951, 970, 852][: options.classes]
    libraries, recipe = installed(), lite0_recipe()
    times: dict[str, list[float]] = {name: [] for name in libraries}
    for turn in range(options.rounds):
        for name, run in libraries.items():
            model = recipe.load().requires_grad_(False)  # kind to those that leave it to users
            steps = options.steps if turn == 0 else max(options.steps // 4, len(classes))
            began = time.process_time()
            images = run(model, recipe, classes, steps)
            spent = time.process_time() - began
            times[name].append(spent / (steps * len(classes)))
            if turn == 0:
                left = hooks_of(model)
                found = score(recipe.load(), recipe, images, classes)
                print(f"{name:<8} logit {statistics.mean(f['logit'] for f in found):6.2f}"
                      f"  own top-1 {statistics.mean(f['right'] for f in found):4.0%}"
                      f"  robust {statistics.mean(f['robust'] for f in found):4.0%}"
                      f"  hooks left {left}")  # fmt: skip
    own = times["surgeon"]
    for name, spent in times.items():
        ratio = statistics.median(a / b for a, b in zip(own, spent, strict=True))
        print(f"{name:<8} {1000 * statistics.median(spent):6.1f} ms of CPU per gradient evaluation;"
              f" surgeon / {name}: {ratio:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
