"""For tests, yours too: tiny models, proof of restoration, and the suite every plugin must pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from surgeon.fingerprints import fingerprint

if TYPE_CHECKING:
    from surgeon.anatomist.anatomy import Anatomy
    from surgeon.recipe import Recipe


class TinyAttention(nn.Module):
    """Single-head attention: (batch, tokens, width) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        weights = (query @ key.transpose(-2, -1) * x.shape[-1] ** -0.5).softmax(dim=-1)
        out: Tensor = self.proj(weights @ value)
        return out


class TinyBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = TinyAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TinyViT(nn.Module):
    """A vision transformer small enough to differentiate densely."""

    def __init__(self, width: int = 8, depth: int = 2, patch: int = 8, side: int = 16) -> None:
        super().__init__()
        tokens = (side // patch) ** 2
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens + 1, width) * 0.02)
        self.blocks = nn.Sequential(*[TinyBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = self.blocks(tokens + self.pos_embed)
        logits: Tensor = self.head(self.norm(tokens)[:, 0])
        return logits


def tiny_vit(seed: int = 0, **options: int) -> TinyViT:
    """A TinyViT in evaluation mode, the same for the same seed.

    Args:
        options: width, depth, patch and side (of the image, in pixels).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyViT(**options)
    return model.eval()


def tiny_vit_anatomy() -> Anatomy:
    """The anatomy of `tiny_vit()`."""
    from surgeon.anatomist.look import look

    return look(tiny_vit(), (3, 16, 16))


@contextmanager
def assert_restores(model: nn.Module, *, full: bool = True) -> Iterator[None]:
    """Assert that a model leaves the context as it came, whatever happens inside.

    Raises:
        AssertionError: it did not; what changed is listed.
    """
    before = fingerprint(model, full=full)
    try:
        yield
    finally:
        changed = before.difference(fingerprint(model, full=full))
        assert not changed, "not restored: " + "; ".join(changed)


def assert_recipe_restores(
    model: nn.Module, recipe: Recipe, images: Tensor, during: Callable[[Tensor], None] | None = None
) -> Tensor:
    """Operate, run, undo; assert that the model is as before and answers as before.

    Args:
        images: (batch, channels, height, width).
        during: called with the operated output.

    Returns:
        The operated output.
    """
    from surgeon.operating import operate

    size = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    with torch.no_grad():
        expected = model(images)
        with assert_restores(model), operate(model, recipe, input_size=size) as subject:
            out = subject.raw(images)
            if during is not None:
                during(out)
        assert torch.equal(model(images), expected), "the restored model answers otherwise"
    return out
