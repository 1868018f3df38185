"""The `permutation` probe: does the output know where in the photo a patch was?"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, ClassVar

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from surgeon.anatomist.site import Site
from surgeon.diagnosis.collisions import stem_matrix
from surgeon.errors import ProbeError
from surgeon.imaging.metrics import relative
from surgeon.imaging.photos import Photo
from surgeon.probe import GeneratorProbe, Inputs, Result
from surgeon.randomness import stream
from surgeon.runs.pictures import Panel, Sheet
from surgeon.subject import Subject
from surgeon_post.settings import PermutationSettings


class Permutation(GeneratorProbe):
    """Two answers, from photos whose patches are permuted.

    *Equivariance*, in float64: the output of the permuted photo against the permuted output of the
    photo. Where they are equal, the set of output tokens is the same for every arrangement, so that
    no reader of the set can tell arrangements apart.

    *Recovery*: the output tokens of a permuted photo are handed over in no order. A linear decoder,
    fitted by least squares on other arrangements of the same patches, gives each token a score for
    each place, and an assignment (Kuhn 1955, scipy's) puts each token at one place. Chance is one
    token in their number.
    """

    Settings: ClassVar[type[PermutationSettings]] = PermutationSettings

    def run(
        self, subject: Subject, inputs: Inputs, settings: PermutationSettings
    ) -> Generator[Mapping[str, Any] | None, None, Result]:
        if not inputs.photos:
            raise ProbeError(
                "permutation", "no image was given", 'image = "surgeon:chelsea", or a file'
            )
        side = patch_side(subject)
        result = Result(draw=_draw)
        sites = subject.sites(settings.sites)
        for photo in inputs.photos:
            for site in sites:
                label = f"{site.name}, {photo.name}" if len(inputs.photos) > 1 else site.name
                figures, shown = _examined(subject, site, photo, side, settings)
                result.figures[label] = figures
                result.images[f"photo {photo.name}"] = photo.pixels
                result.images[f"permuted {photo.name}"] = shown[0]
                result.images[label] = shown[1]
                yield {"site": label, **figures}
        return result


def patch_side(subject: Subject) -> tuple[int, int]:
    """Height and width of a patch of the stem.

    Raises:
        ProbeError: the stem is no projection of patches.
    """
    weight = stem_matrix(subject)
    if weight is None:
        raise ProbeError(
            "permute the patches",
            f"the stem of {subject.anatomy.model} is no single projection of patches",
            "a model with a patch embedding",
        )
    return int(weight.shape[2]), int(weight.shape[3])


def rearranged(image: Tensor, side: tuple[int, int], order: Tensor) -> Tensor:
    """An image whose i-th patch, row by row, is the `order[i]`-th of the given one.

    Args:
        image: (1, channels, height, width).
        order: (patches,), a permutation.
    """
    patches = F.unfold(image, side, stride=side)[:, :, order]
    return F.fold(patches, image.shape[-2:], side, stride=side)


def _examined(
    subject: Subject, site: Site, photo: Photo, side: tuple[int, int], settings: PermutationSettings
) -> tuple[dict[str, Any], tuple[Tensor, Tensor]]:
    """Figures, the permuted photo, and the photo as the decoder puts it together again."""
    pixels = photo.pixels.to(subject.device)
    count = pixels.shape[2] // side[0] * (pixels.shape[3] // side[1])
    generator = stream("permutation", settings.seed)
    orders = [
        torch.randperm(count, generator=generator)
        for _ in range(settings.arrangements + settings.held_out)
    ]
    figures = _equivariance(subject, site, pixels, side, orders[-1])
    images = torch.cat([rearranged(pixels, side, order) for order in orders])
    tokens = _tokens(subject, site, images, count, settings.batch)
    weights = _decoder(tokens[: settings.arrangements], settings.ridge)
    places = [_placed(one, weights) for one in tokens[settings.arrangements :]]
    right = [float((place == torch.arange(count)).double().mean()) for place in places]
    figures |= {"recovered": sum(right) / len(right), "chance": 1 / count, "patches": count}
    permuted = images[-1:].cpu()
    # Token i of the last arrangement shows patch orders[-1][i] and is put at places[-1][i].
    said = rearranged(photo.pixels, side, orders[-1][places[-1].argsort()])
    return figures, (permuted, said)


def _equivariance(
    subject: Subject, site: Site, pixels: Tensor, side: tuple[int, int], order: Tensor
) -> dict[str, Any]:
    """The permuted output against the output of the permuted photo, in float64."""
    both = torch.cat([pixels, rearranged(pixels, side, order)]).double()
    with torch.no_grad(), subject.in_dtype(torch.float64):
        value = subject.run(both, capture=(site,), stop=site)[site]
    prefix = _prefix(value, len(order), site)
    first, second = value[:1], value[1:]
    patches = first[:, prefix:]
    moved = second[:, prefix:]
    return {
        "equivariance_error": relative(patches[:, order], moved),
        "output_change": relative(patches, moved),
        "prefix_change": relative(first[:, :prefix], second[:, :prefix]) if prefix else None,
    }


def _prefix(value: Tensor, patches: int, site: Site) -> int:
    """Class and register tokens before the patches.

    Raises:
        ProbeError: it is no sequence of a token for each patch.
    """
    if value.ndim != 3 or value.shape[1] < patches:
        raise ProbeError(
            f"permute the patches before {site.name}",
            f"its value is {tuple(value.shape[1:])}, no token for each of {patches} patches",
            "a site inside the blocks",
        )
    return int(value.shape[1] - patches)


def _tokens(subject: Subject, site: Site, images: Tensor, patches: int, batch: int) -> Tensor:
    """(images, patches, width) at a site, prefix tokens left out."""
    found = []
    for i in range(0, len(images), batch):
        with torch.no_grad():
            value = subject.run(images[i : i + batch], capture=(site,), stop=site)[site]
        found.append(value[:, _prefix(value, patches, site) :].cpu().double())
    return torch.cat(found)


def _decoder(tokens: Tensor, ridge: float) -> Tensor:
    """Weights (width + 1, places) of scores, by ridge regression on one-hot places."""
    images, places, width = tokens.shape
    x = torch.cat([tokens, torch.ones(images, places, 1, dtype=tokens.dtype)], 2)
    x = x.reshape(-1, width + 1)
    y = torch.eye(places, dtype=tokens.dtype).repeat(images, 1)
    gram = x.T @ x
    gram += ridge * float(gram.diagonal().mean()) * torch.eye(width + 1, dtype=tokens.dtype)
    weights: Tensor = torch.linalg.solve(gram, x.T @ y)
    return weights


def _placed(tokens: Tensor, weights: Tensor) -> Tensor:
    """The place each token (patches, width) is put at; ties fall as they may, in a fixed order."""
    scores = tokens @ weights[:-1] + weights[-1]
    # Handed over in an order of its own, so that equal scores don't give the true place away.
    mixed = torch.randperm(len(tokens), generator=stream("permutation/handed over", len(tokens)))
    _, columns = linear_sum_assignment(scores[mixed].numpy(), maximize=True)
    place = torch.empty(len(tokens), dtype=torch.int64)
    place[mixed] = torch.as_tensor(columns)
    return place


def _draw(result: Result) -> Sheet:
    panels = []
    for name, image in result.images.items():
        figures = result.figures.get(name)
        caption = ""
        if figures:
            caption = (
                f"{figures['recovered']:.0%} of {figures['patches']} patches placed right\n"
                f"(chance {figures['chance']:.0%})\n"
                f"equivariance error {figures['equivariance_error']:.1e}"
            )
        panels.append(Panel(image, f"from {name}" if figures else name, caption))
    rows = [panels[i : i + 6] for i in range(0, len(panels), 6)]
    title = f"permutation {result.record.get('model', '')}"
    return Sheet(title, rows, note="; ".join(result.record.get("operations", [])))
