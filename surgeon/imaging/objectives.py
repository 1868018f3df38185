"""What an image is to be raised in: logits, channels, tokens, sites, priors; they add and multiply.

    logit(251) - 0.5 * logit(207) + 0.1 * total_variation()

An objective is data. Its value is to be raised, one number for each image; priors are written so
that they are added: `total_variation()` is the smaller the rougher an image is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from surgeon.anatomist.site import Site
from surgeon.errors import ProbeError
from surgeon.imaging import batch_statistics, priors
from surgeon.subject import Subject


@dataclass(frozen=True)
class Seen:
    """One forward, as objectives see it.

    Attributes:
        images: (batch, channels, height, width) as the model was given them, in [0, 1].
        output: of the subject.
        values: selector -> the value at its site.
        strangeness: see `BatchStatistics`; None where no objective asks for it.
    """

    images: Tensor
    output: Tensor
    values: Mapping[str, Tensor]
    strangeness: Tensor | None = None

    def row(self, i: int) -> Seen:
        """The same of one image, the batch kept as an axis."""
        values = {key: value[i : i + 1] for key, value in self.values.items()}
        return Seen(self.images[i : i + 1], self.output[i : i + 1], values, self.strangeness)


class Objective:
    """Base of all: + - * / with others and with numbers."""

    #: Selectors of the sites whose values it needs.
    selectors: tuple[str, ...] = ()

    def __call__(self, seen: Seen) -> Tensor:
        """(batch,), to be raised."""
        raise NotImplementedError

    def __add__(self, other: Objective | float) -> Objective:
        return _Both(self, _as_objective(other), "+")

    def __sub__(self, other: Objective | float) -> Objective:
        return self + -1.0 * _as_objective(other)

    def __mul__(self, other: Objective | float) -> Objective:
        return _Both(self, _as_objective(other), "*")

    def __truediv__(self, other: float) -> Objective:
        return self * (1 / other)

    def __rsub__(self, other: float) -> Objective:
        return _as_objective(other) - self

    def __neg__(self) -> Objective:
        return self * -1.0

    __radd__ = __add__
    __rmul__ = __mul__


@dataclass(frozen=True)
class Constant(Objective):
    """A number."""

    number: float

    def __call__(self, seen: Seen) -> Tensor:
        return seen.images.new_full((len(seen.images),), self.number)


@dataclass(frozen=True)
class _Both(Objective):
    first: Objective
    second: Objective
    sign: str

    @property
    def selectors(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys((*self.first.selectors, *self.second.selectors)))

    def __call__(self, seen: Seen) -> Tensor:
        a, b = self.first(seen), self.second(seen)
        return a + b if self.sign == "+" else a * b


def _as_objective(x: Objective | float) -> Objective:
    return x if isinstance(x, Objective) else Constant(float(x))


@dataclass(frozen=True)
class Logit(Objective):
    """The output's number for a class, before the softmax."""

    index: int

    def __call__(self, seen: Seen) -> Tensor:
        return _logits(seen)[:, self.index]


@dataclass(frozen=True)
class Softmax(Objective):
    """The probability of a class; its gradient vanishes far from the class."""

    index: int

    def __call__(self, seen: Seen) -> Tensor:
        return _logits(seen).softmax(1)[:, self.index]


@dataclass(frozen=True)
class LogSoftmax(Objective):
    """The log of the probability of a class."""

    index: int

    def __call__(self, seen: Seen) -> Tensor:
        return F.log_softmax(_logits(seen), dim=1)[:, self.index]


@dataclass(frozen=True)
class AtSite(Objective):
    """Base of those that read the value at a site, given by a selector of one."""

    site: str

    @property
    def selectors(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.site,)


@dataclass(frozen=True)
class Channel(AtSite):
    """The mean of one channel at a site, over its places or tokens; or the sum."""

    index: int
    summed: bool = False

    def __call__(self, seen: Seen) -> Tensor:
        value = seen.values[self.site]
        axis = channel_axis(value)
        _check_index(self.index, value.shape[axis], f'channel("{self.site}", {self.index})')
        places = value.select(axis, self.index).flatten(1)
        return places.sum(1) if self.summed else places.mean(1)


@dataclass(frozen=True)
class Token(AtSite):
    """One token at a site: one channel of it, or half the mean square of all."""

    index: int
    channel: int | None = None

    def __call__(self, seen: Seen) -> Tensor:
        value = seen.values[self.site]
        asked = f'token("{self.site}", {self.index})'
        if value.ndim != 3:
            raise ProbeError(asked, f"the value is {tuple(value.shape)}, no tokens", "channel")
        _check_index(self.index, value.shape[1], asked)
        token = value[:, self.index]
        if self.channel is None:
            return (token * token).mean(1) / 2
        _check_index(self.channel, value.shape[2], asked)
        return token[:, self.channel]


@dataclass(frozen=True)
class WholeSite(AtSite):
    """Half the mean square of everything at a site: the deep dream's (Mordvintsev 2015)."""

    def __call__(self, seen: Seen) -> Tensor:
        return (seen.values[self.site] ** 2).flatten(1).mean(1) / 2


@dataclass(frozen=True)
class Mean(AtSite):
    """The mean of everything at a site."""

    def __call__(self, seen: Seen) -> Tensor:
        return seen.values[self.site].flatten(1).mean(1)


@dataclass(frozen=True)
class TotalVariation(Objective):
    """Minus the mean absolute difference of neighbouring pixels."""

    def __call__(self, seen: Seen) -> Tensor:
        return -priors.total_variation(seen.images)


@dataclass(frozen=True)
class L2(Objective):
    """Minus the root mean square distance of the pixels from middle grey."""

    def __call__(self, seen: Seen) -> Tensor:
        return -priors.contrast(seen.images)


@dataclass(frozen=True)
class InRange(Objective):
    """Minus how far pixels lie outside [0, 1], in the mean."""

    def __call__(self, seen: Seen) -> Tensor:
        return -priors.outside(seen.images)


@dataclass(frozen=True)
class BatchStatistics(Objective):
    """Minus the distance of the whole batch from what the model's batch norms remember of photos.

    The same for each image of a batch: Yin et al. (2020), see `imaging.batch_statistics`.
    """

    def __call__(self, seen: Seen) -> Tensor:
        if seen.strangeness is None:
            raise ProbeError(
                "batch_statistics()",
                "no batch norm with running statistics has run",
                "total_variation(), or a model with batch norms",
            )
        return -seen.strangeness.expand(len(seen.images))


def see(subject: Subject, images: Tensor, objectives: Sequence[Objective]) -> Seen:
    """One forward with everything that objectives need, and nothing computed beyond.

    Args:
        images: (batch, channels, height, width) in [0, 1].
    """
    if not any(_has(objective, BatchStatistics) for objective in objectives):
        return _see(subject, images, objectives)
    with batch_statistics.recorded(subject.model) as parts:
        seen = _see(subject, images, objectives)
    return replace(seen, strangeness=batch_statistics.distance(parts)) if parts else seen


def _see(subject: Subject, images: Tensor, objectives: Sequence[Objective]) -> Seen:
    selectors = dict.fromkeys(s for objective in objectives for s in objective.selectors)
    sites = {selector: _one(subject, selector) for selector in selectors}
    if not sites:
        return Seen(images, subject(images), {})
    last = max(sites.values(), key=lambda site: site.order)
    needs_output = any(_has(objective, *_OF_OUTPUT) for objective in objectives)
    chosen = tuple(dict.fromkeys(sites.values()))
    run = subject.run(images, capture=chosen, stop=None if needs_output else last)
    return Seen(images, run.output, {key: run[site] for key, site in sites.items()})


def values_of(objectives: Sequence[Objective], seen: Seen) -> Tensor:
    """(batch,): the value of each objective on its own image."""
    if all(objective == objectives[0] for objective in objectives):
        return objectives[0](seen)
    return torch.cat([objective(seen.row(i)) for i, objective in enumerate(objectives)])


def channel_axis(value: Tensor) -> int:
    """Where channels are: last among tokens (batch, tokens, width), else first after the batch."""
    return 2 if value.ndim == 3 else 1


_OF_OUTPUT = (Logit, Softmax, LogSoftmax)


def _has(objective: Objective, *kinds: type[Objective]) -> bool:
    """Whether an objective has one of these among its parts."""
    if isinstance(objective, _Both):
        return _has(objective.first, *kinds) or _has(objective.second, *kinds)
    return isinstance(objective, kinds)


def _one(subject: Subject, selector: str) -> Site:
    sites = subject.sites(selector)
    if len(sites) != 1:
        names = ", ".join(site.name for site in sites[:4])
        raise ProbeError(
            f'objective at "{selector}"', f"{len(sites)} sites: {names}", "one of them"
        )
    return sites[0]


def _logits(seen: Seen) -> Tensor:
    if seen.output.ndim != 2:
        raise ProbeError(
            "the logit of a class",
            f"the output is {tuple(seen.output.shape)}, no (batch, classes)",
            'a recipe without truncate, or `channel("blocks[3]", 7)`',
        )
    return seen.output


def _check_index(index: int, count: int, asked: str) -> None:
    if not -count <= index < count:
        raise ProbeError(asked, f"there are {count}", f"0 to {count - 1}")
