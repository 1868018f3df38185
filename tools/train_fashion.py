"""Train the packaged small models on Fashion-MNIST and write their weights and cards.

    apt install dataset-fashion-mnist
    python tools/train_fashion.py                   # all three, under two hours on two cores
    python tools/train_fashion.py vit_fashion --epochs 1 --out /tmp/try

The images come from Debian's package `dataset-fashion-mnist` (MIT licence). Training is seeded;
other hardware or another torch may differ in the last digits, so the card keeps what was measured.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from surgeon_models.architectures import ARCHITECTURES, MEAN, STD, build

DATA = Path("/usr/share/datasets/fashion-mnist")
WEIGHTS = Path(__file__).resolve().parent.parent / "plugins" / "surgeon_models" / "weights"
LABELS = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
RECIPES = {
    "vit_fashion": {"epochs": 30, "rate": 2e-3, "batch": 128, "weight_decay": 0.05},
    "mixer_fashion": {"epochs": 10, "rate": 2e-3, "batch": 128, "weight_decay": 0.05},
    "resnet_fashion": {"epochs": 8, "rate": 4e-3, "batch": 128, "weight_decay": 0.05},
}


def read_split(prefix: str, folder: Path = DATA) -> tuple[Tensor, Tensor]:
    """Images uint8 (n, 1, 28, 28) and labels int64 (n,) of `train` or `t10k`."""
    images = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    classes = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    return torch.from_numpy(pixels.copy()), torch.from_numpy(classes)


def normalise(images: Tensor) -> Tensor:
    return (images.float() / 255 - MEAN[0]) / STD[0]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the batch, shift each image by up to two pixels (grey-zero borders)."""
    n = len(images)
    mirrored = torch.rand(n, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    shift = torch.randint(0, 5, (n, 2), generator=generator)
    rows = shift[:, :1] + torch.arange(28)
    columns = shift[:, 1:] + torch.arange(28)
    padded = F.pad(images, (2, 2, 2, 2))
    index = torch.arange(n)[:, None, None]
    return padded[index, 0, rows[:, :, None], columns[:, None, :]][:, None]


def groups_of(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    right = sum(
        int((model(normalise(x)).argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return right / len(labels)


def train(name: str, seed: int, epochs: int | None) -> tuple[nn.Module, dict[str, object]]:
    recipe = dict(RECIPES[name])
    recipe["epochs"] = epochs or recipe["epochs"]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build(name)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998), use_buffers=True
    )
    images, labels = read_split("train")
    steps_per_epoch = len(images) // int(recipe["batch"])
    optimizer = torch.optim.AdamW(
        groups_of(model, float(recipe["weight_decay"])), lr=float(recipe["rate"])
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, float(recipe["rate"]), int(recipe["epochs"]) * steps_per_epoch, pct_start=0.15
    )
    began = time.time()
    for epoch in range(int(recipe["epochs"])):
        model.train()
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for batch in order.split(int(recipe["batch"]))[:steps_per_epoch]:
            x = augment(normalise(images[batch]), generator)
            loss = F.cross_entropy(model(x), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += loss.item()
        print(f"{name} epoch {epoch + 1}: loss {total / steps_per_epoch:.4f}", flush=True)
    recipe |= {
        "optimizer": "AdamW, one-cycle rate, averaged weights (0.998), gradient norm at most 1",
        "augmentation": "mirror, shift up to 2 pixels, label smoothing 0.05",
        "seed": seed,
        "minutes": round((time.time() - began) / 60, 1),
    }
    return average.module, recipe


def write(name: str, model: nn.Module, recipe: dict[str, object], out: Path) -> None:
    images, labels = read_split("t10k")
    score = accuracy(model, images, labels)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    path = out / f"{name}.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    _, class_name, arguments = ARCHITECTURES[name]
    card = {
        "name": name,
        "class": f"timm {class_name}",
        "arguments": arguments,
        "parameters": sum(p.numel() for p in model.parameters()),
        "test_accuracy": score,
        "test_images": len(labels),
        "labels": LABELS,
        "mean": MEAN,
        "std": STD,
        "input_size": [1, 28, 28],
        "training": recipe,
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
        "data": "Fashion-MNIST, Zalando SE, MIT licence; 60,000 training and 10,000 test images",
        "licence": "MIT (weights), MIT (data)",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (out / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"{name}: test accuracy {score:.4f}, {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the packaged small models.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all three")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or list(ARCHITECTURES):
        model, recipe = train(name, options.seed, options.epochs)
        write(name, model, recipe, options.out)


if __name__ == "__main__":
    main()
