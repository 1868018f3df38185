"""What surgery costs: forward and backward of operated models against the same written by hand.

    python benchmarks/overhead.py [--pairs 40]

ViT-B/32, batch 1, CPU. Runs of the two alternate, so that a machine whose speed drifts does not
favour one; what is printed is the median of the paired ratios with a bootstrapped 95 % interval.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
import torchvision
from torch import nn

import surgeon
from surgeon import Bypass, DropResidual, Recipe, Truncate


def block_by_hand(block, x, drop, bypass_attention):
    if not bypass_attention:
        y = block.ln_1(x)
        y, _ = block.self_attention(y, y, y, need_weights=False)
        y = block.dropout(y)
        x = y if drop else y + x
    y = block.mlp(block.ln_2(x))
    return y if drop else x + y


def vit_by_hand(model, images, last=None, drop=False, bypass_attention=False):
    """torchvision's ViT as one would write it for the question at hand."""
    x = model._process_input(images)
    x = torch.cat([model.class_token.expand(len(x), -1, -1), x], 1)
    x = model.encoder.dropout(x + model.encoder.pos_embedding)
    for number, block in enumerate(model.encoder.layers):
        x = block_by_hand(block, x, drop, bypass_attention)
        if number == last:
            return x
    return model.heads(model.encoder.ln(x)[:, 0])


def timed(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def paired(ours, theirs, pairs):
    """Ratios ours / theirs of alternating runs, the order within a pair alternating too."""
    for _ in range(3):
        ours(), theirs()
    ratios = []
    for i in range(pairs):
        if i % 2:
            a, b = timed(ours), timed(theirs)
        else:
            b, a = timed(theirs), timed(ours)
        ratios.append(a / b)
    return np.array(ratios)


def interval(ratios):
    draws = np.random.default_rng(0).choice(ratios, (5000, len(ratios)))
    return np.percentile(np.median(draws, axis=1), [2.5, 97.5])


def report(name, ratios, most):
    low, high = interval(ratios)
    median = np.median(ratios)
    verdict = "ok" if median <= most else "OVER"
    print(
        f"{name:<34} {median:.3f}  [{low:.3f}, {high:.3f}]  at most {most}  {verdict}", flush=True
    )


def gradient(function, images):
    def run():
        x = images.clone().requires_grad_(True)
        function(x).sum().backward()

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=40)
    pairs = parser.parse_args().pairs
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)
    model: nn.Module = torchvision.models.vit_b_32().eval().requires_grad_(False)
    images = torch.rand(1, 3, 224, 224)
    cases = [
        ("empty recipe", Recipe(), {}, 1.02),
        ("all residuals dropped", Recipe() | DropResidual("blocks[*]"), {"drop": True}, 1.05),
        ("truncate at blocks[5]", Recipe() | Truncate("blocks[5]"), {"last": 5}, 1.03),
        ("all attention bypassed", Recipe() | Bypass("blocks[*].attention"),
         {"bypass_attention": True}, 1.03),
    ]  # fmt: skip
    print(f"{'forward + backward, ViT-B/32':<34} ratio  95 % interval ({pairs} pairs)")
    for name, recipe, by_hand, most in cases:
        with surgeon.operate(model, recipe) as subject:
            ours = gradient(subject.raw, images)
            # By hand on a copy: the operated blocks would carry the surgery into it.
            other = torchvision.models.vit_b_32().eval().requires_grad_(False)
            other.load_state_dict(model.state_dict(), assign=True)  # the very same memory
            theirs = gradient(lambda x, m=other, k=by_hand: vit_by_hand(m, x, **k), images)
            report(name, paired(ours, theirs, pairs), most)
    adam_step(model, pairs)


def adam_step(model, pairs):
    """One step of `invert` by Adam against a bare loop with frozen weights."""
    from surgeon.imaging.photos import load_photos
    from surgeon.probe import Inputs
    from surgeon_invert.probe import Invert
    from surgeon_invert.settings import InvertSettings

    recipe = Recipe() | Truncate("blocks[11]")
    with surgeon.operate(model, recipe) as subject:
        photo = load_photos("surgeon:chelsea", subject.preprocessing)[0]
        probe, settings = Invert(), InvertSettings(method="adam", steps=10_000)
        inputs = Inputs((photo,), recipe)
        state = probe.start(subject, inputs, settings)

        def ours():
            nonlocal state
            state = probe.step(subject, inputs, settings, state).state

        other = torchvision.models.vit_b_32().eval().requires_grad_(False)
        other.load_state_dict(model.state_dict(), assign=True)  # the very same memory
        image = torch.randn_like(photo.pixels).requires_grad_(True)
        optimizer = torch.optim.Adam([image], lr=0.05)
        with torch.no_grad():
            wanted = vit_by_hand(other, photo.pixels, last=11)

        def theirs():
            optimizer.zero_grad()
            loss = ((vit_by_hand(other, image, last=11) - wanted) ** 2).sum()
            loss.backward()
            optimizer.step()

        report("one invert step (adam), blocks[11]", paired(ours, theirs, pairs), 1.05)


if __name__ == "__main__":
    main()
