"""How near two images are. All on unclipped pixels of [0, 1]."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """x in float64, on the CPU: not every device has it."""
    return x.detach().cpu().double()


def l2(a: Tensor, b: Tensor) -> float:
    """Euclidean distance of two tensors of one shape, each taken to float64 first."""
    return float(torch.linalg.vector_norm(exact(a) - exact(b)))


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |a|."""
    return l2(a, b) / max(float(torch.linalg.vector_norm(exact(a))), 1e-300)


def psnr(target: Tensor, image: Tensor) -> float:
    """Peak signal-to-noise ratio in dB for a peak of 1; infinite for equal images."""
    error = float(((exact(target) - exact(image)) ** 2).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(target: Tensor, image: Tensor) -> float:
    """Structural similarity (Wang 2004), scikit-image's, mean over channels; 1 for equal images.

    Args:
        target, image: (1, channels, height, width).
    """
    from skimage.metrics import structural_similarity

    a, b = (np.asarray(exact(x)[0]) for x in (target, image))
    window = min(7, *(n - (n + 1) % 2 for n in a.shape[1:]))
    value = structural_similarity(a, b, win_size=window, data_range=1.0, channel_axis=0)
    return float(value)


def finite(value: float) -> float | None:
    """A number as JSON can hold it; None for infinities and NaN."""
    return value if math.isfinite(value) else None
