"""One large object: at first only the middle of an image is sharp, then more and more of it.

What lies outside is blurred, so that nothing is found there until the middle holds an object that
what comes later can go on from. After the centering of Ghiasi et al., "Plug-in inversion" (2022),
which leaves the rest out instead.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

#: Radii are in half images; at the last one the corners are sharp.
_FIRST, _LAST = 0.5, 1.6
#: Width of the edge.
_SOFT = 0.08
#: Blurs are made on an image of so many pixels, with a sigma of one of them.
_BLURRED = 22
#: Where the sharp part counts as the whole image.
_WHOLE = 1.1
#: How many times as closely an image is held to photos once it is sharp.
_HELD = 2.0


def radius_of(share: float, until: float) -> float:
    """Of the sharp middle, in half images.

    Args:
        share: of all steps, those done.
        until: of all steps, those in which it grows; 0: everything is sharp.
    """
    if until <= 0 or share >= until:
        return _LAST
    return _FIRST + (_LAST - _FIRST) * share / until


def held(radius: float) -> float:
    """How many times as closely an image is held to photos, by the area that is sharp.

    A small middle that made up for the blurred rest would be overdone; in the whole image objects
    come out like those of photos.
    """
    return _HELD * min(1.0, (radius / _WHOLE) ** 2)


def focused(images: Tensor, radius: float) -> Tensor:
    """Images sharp in their middle and blurred outside.

    Args:
        images: (batch, channels, height, width).
    """
    if radius >= _LAST:
        return images
    height, width = images.shape[2:]
    down, across = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    distance = torch.hypot(down[:, None], across[None]).to(images)
    mask = torch.sigmoid((radius - distance) / _SOFT)
    small = F.interpolate(images, (_BLURRED, _BLURRED), mode="area")
    small = gaussian_blur(small, [5, 5], [1.0, 1.0])
    blurred = F.interpolate(small, (height, width), mode="bilinear")
    return blurred.lerp(images, mask)
