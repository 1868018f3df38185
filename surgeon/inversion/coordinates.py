"""Coordinates that a search in the image goes on in: photos' spectrum, and what the stem passes on.

A gradient method takes large steps along what its coordinates make long. In pixels all frequencies
of an image are alike, while in photos, and in what networks see of them, low ones carry most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from surgeon.imaging.parameterisations import scaling
from surgeon.inversion.row_space import stem_weight

if TYPE_CHECKING:
    from surgeon.subject import Subject

#: Amplitudes are scaled by 1 / frequency to this power: photos' fall with about 1, the noise of
#: a start with 0.
_DECAY = 0.35


class Coordinates:
    """z with image = W S z: S scales frequencies, W makes patches what the stem passes on alike.

    Args:
        spectrum: S.
        whitening: W; the identity where there is none.
    """

    def __init__(self, spectrum: Spectrum, whitening: Whitening | None = None) -> None:
        self.spectrum, self.whitening = spectrum, whitening

    @classmethod
    def of(cls, subject: Subject) -> Coordinates:
        """Those of a subject's images; whitened where its stem projects patches one by one."""
        _, height, width = subject.anatomy.input_size
        return cls(Spectrum(height, width), Whitening.of(subject))

    def there(self, image: Tensor) -> Tensor:
        """An image in these coordinates."""
        return self.spectrum.there(self.whitening.there(image) if self.whitening else image)

    def back(self, z: Tensor) -> Tensor:
        """Coordinates as an image."""
        image = self.spectrum.back(z)
        return self.whitening.back(image) if self.whitening else image

    def pulled(self, gradient: Tensor) -> Tensor:
        """A gradient by the image as one by these coordinates: the transpose of `back`."""
        return self.spectrum.back(self.whitening.back(gradient) if self.whitening else gradient)


class Spectrum:
    """Coordinates of images with every frequency scaled by 1 / frequency^decay; symmetric.

    The parameterisation of Olah, Mordvintsev and Schubert, "Feature visualization" (2017), there
    with a decay of 1.

    Args:
        height, width: in pixels.
        decay: 0 for pixels.
    """

    def __init__(self, height: int, width: int, decay: float = _DECAY) -> None:
        self.size = (height, width)
        scale = scaling(height, width, decay).double()
        self.scale = scale / scale.square().mean().sqrt()

    def there(self, image: Tensor) -> Tensor:
        """An image in these coordinates."""
        return self._scaled(image, 1 / self.scale)

    def back(self, image: Tensor) -> Tensor:
        """Coordinates as an image; a gradient by the image as one by coordinates."""
        return self._scaled(image, self.scale)

    def _scaled(self, image: Tensor, scale: Tensor) -> Tensor:
        scaled: Tensor = torch.fft.irfft2(torch.fft.rfft2(image) * scale.to(image), s=self.size)
        return scaled


class Whitening:
    """Coordinates of patches in which the stem passes on every direction about alike.

    A trained stem's singular values differ a thousandfold, and gradients in pixels with them.

    Args:
        weight: (width, channels, height, width) of the stem, by un-normalised pixels.
        floor: of the squared singular values, relative to the largest.
    """

    def __init__(self, weight: Tensor, floor: float = 1e-2) -> None:
        self.size = (int(weight.shape[2]), int(weight.shape[3]))
        _, values, basis = torch.linalg.svd(
            weight.detach().double().flatten(1), full_matrices=False
        )
        scale = (values.square() / values.square().max() + floor).rsqrt()
        self.scale = scale / scale.square().reciprocal().mean().rsqrt()
        self.basis = basis

    @classmethod
    def of(cls, subject: Subject) -> Whitening | None:
        """None where the stem is no single projection of patches that don't overlap."""
        weight = stem_weight(subject)
        return None if weight is None else cls(weight)

    def there(self, image: Tensor) -> Tensor:
        """An image in these coordinates."""
        return self._scaled(image, 1 / self.scale)

    def back(self, image: Tensor) -> Tensor:
        """Coordinates as an image."""
        return self._scaled(image, self.scale)

    pulled = back  # it is its own transpose

    def _scaled(self, image: Tensor, scale: Tensor) -> Tensor:
        basis, less = self.basis.to(image), (scale - 1).to(image)
        patches = F.unfold(image, self.size, stride=self.size)
        moved = patches + basis.T @ (less[:, None] * (basis @ patches))
        return F.fold(moved, image.shape[-2:], self.size, stride=self.size)
