"""The operated model as probes see it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.record import tensors_in
from surgeon.anatomist.roles import module_site
from surgeon.anatomist.site import Site, shape_text
from surgeon.captured import Captured, Pins
from surgeon.errors import PlanError
from surgeon.inversion.ledger import Ledger
from surgeon.inversion.segments import Segment
from surgeon.operations.base import single
from surgeon.planning import Plan
from surgeon.preprocessing import Preprocessing
from surgeon.surgery.apply import Applied
from surgeon.surgery.edits import Stop
from surgeon.surgery.install import Exchange, install
from surgeon.surgery.liveness import site_value
from surgeon.surgery.program import Program, build_program


class Subject:
    """An operated model. For one thread at a time.

    A handle as well: `remove()` undoes the surgery, and so does leaving it as a context.

    Attributes:
        model: the operated model itself.
        plan: what was done to it.
        anatomy: of the un-operated model.
        preprocessing: what `__call__` applies to images, normalisation included.
        ledger: cost of what is run through it, unless told otherwise.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, handle: Applied, preprocessing: Preprocessing
    ) -> None:
        self.model, self.plan, self.handle = model, plan, handle
        self.anatomy: Anatomy = plan.anatomy
        self.preprocessing = preprocessing
        self.ledger = Ledger(plan.program.flops)
        self._programs: dict[object, Program] = {}
        self._dtype: torch.dtype | None = None

    # --- the model

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.model.parameters(), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights; images are converted to it."""
        if self._dtype is not None:
            return self._dtype
        floating = (p.dtype for p in self.model.parameters() if p.is_floating_point())
        return next(floating, torch.float32)

    def preprocessed(self, preprocessing: Preprocessing) -> Subject:
        """The same operated model, with other preprocessing; both share one surgery."""
        other = Subject(self.model, self.plan, self.handle, preprocessing)
        other._programs = self._programs
        return other

    def __call__(self, images: Tensor) -> Tensor:
        """The operated forward.

        Args:
            images: (batch, channels, height, width), pixels in [0, 1]; normalised here.

        Returns:
            The value at the stop, or the model's output.
        """
        return self.raw(self.normalize(images))

    def raw(self, x: Tensor) -> Tensor:
        """The operated forward without normalisation; the same as `model(x)`."""
        self._check_active()
        out = self.model(x)
        return next(tensors_in(out))

    def normalize(self, images: Tensor) -> Tensor:
        """Images as the model wants them: (x - mean) / std, in its dtype and on its device."""
        images = images.to(device=self.device, dtype=self.dtype)
        if not self.preprocessing.mean:
            return images
        mean, std = (moment.to(self.dtype).to(self.device) for moment in self._moments)
        return (images - mean) / std

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and std in float64 on the CPU: rounded to whichever precision came first, they would
        be another map in the next."""
        mean, std = (
            torch.tensor(m, dtype=torch.float64)[:, None, None]
            for m in (self.preprocessing.mean, self.preprocessing.std)
        )
        return mean, std

    @contextmanager
    def in_dtype(self, dtype: torch.dtype, names: Iterable[str] | None = None) -> Iterator[None]:
        """Runs inside compute in another precision; weights go back untouched after.

        Args:
            dtype: floating point.
            names: paths of the parameters and buffers that runs will read; all if left out.
        """
        chosen = self.anatomy.graph.parameters if names is None else names
        before, self._dtype = self._dtype, dtype
        kept: list[tuple[dict[str, Any], str, Tensor]] = []
        try:
            for name in chosen:
                owner, _, last = name.rpartition(".")
                module = self.model.get_submodule(owner)
                table: dict[str, Any] = (
                    module._parameters if last in module._parameters else module._buffers
                )
                tensor = table.get(last)
                if tensor is not None and tensor.is_floating_point() and tensor.dtype != dtype:
                    kept.append((table, last, tensor))
                    table[last] = tensor.detach().to(dtype)
            yield
        finally:
            for table, last, tensor in reversed(kept):
                table[last] = tensor
            self._dtype = before

    # --- sites

    @cached_property
    def output(self) -> Site:
        """The site whose value is the output: the stop, or the whole model."""
        stops = [edit.site for edit in self.plan.edits if isinstance(edit, Stop)]
        return stops[0] if stops else module_site(self.anatomy.graph, self.anatomy.graph.calls[0])

    def sites(self, selector: str | Iterable[str] | None = None) -> list[Site]:
        """Sites of a selector, the subject's output if there is none.

        Raises:
            SelectionError: it matches nothing.
        """
        return list(self.anatomy.select(selector)) if selector else [self.output]

    # --- running parts

    def run(
        self,
        images: Tensor | None,
        *,
        inject: Mapping[Site, Tensor] | None = None,
        capture: Sequence[Site] = (),
        stop: Site | None = None,
    ) -> Captured:
        """One forward with values put in and taken out; all else is made of this.

        Args:
            images: (batch, channels, height, width) in [0, 1]; None where what is injected makes
                them unneeded.
            inject: site -> value in place of what would be computed.
            capture: sites whose values are wanted.
            stop: where to stop, the last capture at the soonest; left out: the subject's own stop.

        Returns:
            The captured values and the output: of the last site where it stops, else the model's.
            Nothing that isn't needed is computed.

        Raises:
            PlanError: a site beyond the subject's own stop, or one that can't be hooked.
        """
        inject = dict(inject or {})
        program = self.program(inject=tuple(inject), capture=tuple(capture), stop=stop)
        if images is None and program.needs_input:
            raise PlanError(
                f"a run without an image, with {', '.join(s.name for s in inject)} put in",
                "what is wanted depends on the image too",
                "give the image, or put a value in that all else follows from",
            )
        return self.through(program, inject, images)

    def program(
        self, *, inject: Sequence[Site] = (), capture: Sequence[Site] = (), stop: Site | None = None
    ) -> Program:
        """The worked-out program of a run; kept, so that many runs work it out once."""
        key = (tuple(inject), tuple(capture), stop)
        if key not in self._programs:
            self._programs[key] = build_program(
                self.anatomy, (), installed=self.plan.edits,
                captures=capture, injections=inject, stop=stop,
            )  # fmt: skip
        return self._programs[key]

    def through(
        self, program: Program, inject: Mapping[Site, Tensor], images: Tensor | None = None
    ) -> Captured:
        """Run a program made by `program`."""
        self._check_active()
        exchange = Exchange({site.value: x for site, x in inject.items() if site.value is not None})
        x = self.normalize(images) if images is not None else self._blank(inject)
        own = self.handle.installation
        stopping, own.stopping = own.stopping, False
        try:
            with install(self.model, program, exchange):
                out = self.model(x)
        finally:
            own.stopping = stopping
        known = {**exchange.captured, **exchange.injected}
        values = {site: known[site_value(site)] for site in program.captures}
        return Captured(values, next(tensors_in(out)))

    def _blank(self, inject: Mapping[Site, Tensor]) -> Tensor:
        """An image nobody looks at, of the batch of what is injected."""
        batch = 1
        for site, value in inject.items():
            batch = value.shape[0] // max(site.shape[0], 1)
        size = (batch, *self.anatomy.input_size)
        return torch.zeros(size, device=self.device, dtype=self.dtype)

    def capture(self, images: Tensor, sites: str | Iterable[str] | Sequence[Site]) -> Captured:
        """Activations at sites.

        Args:
            images: (batch, channels, height, width) in [0, 1].
            sites: a selector, several, or sites.
        """
        found = self.anatomy.sites_of(sites)
        return self.run(images, capture=found, stop=found[-1])

    def segment(self, source: Site | str | None, target: Site | str) -> Segment:
        """The map from one site's value to another's.

        Args:
            source: None for the image, in pixels of [0, 1].

        Raises:
            PlanError: the target doesn't come after the source.
        """
        last = self.anatomy.where_made(_one_site(self.anatomy, target))
        if source is None:
            return Segment(self, None, last)
        first = _one_site(self.anatomy, source)
        if first.order >= last.order:
            raise PlanError(
                f"the segment from {first.name} to {last.name}",
                f"{last.name} comes first in the forward",
                f"the segment from {last.name} to {first.name}",
            )
        return Segment(self, first, last)

    def flops_to(self, site: Site) -> int:
        """FLOPs of one forward of one image from the pixels to a site."""
        return self.program(capture=(site,), stop=site).flops

    def known(self, site: Site) -> Pins:
        """Tokens at a site that are the same for every image.

        Raises:
            PlanError: the site's value is no sequence of tokens.
        """
        if len(site.shape) != 3:
            raise PlanError(
                f"known tokens at {site.name}",
                f"its value is {shape_text(site.shape)}, no (batch, tokens, width)",
                "a site of a model with tokens",
            )
        generator = torch.Generator().manual_seed(0)
        size = self.anatomy.input_size
        images = torch.stack([torch.zeros(size), torch.rand(size, generator=generator)])
        with torch.no_grad():
            first, second = self.run(images, capture=(site,), stop=site)[site]
        return Pins((first == second).all(-1), first[None])

    # --- the handle

    def _check_active(self) -> None:
        if not self.handle.active:
            raise PlanError(
                "run a subject", "its surgery was undone", "operate again: surgeon.operate(...)"
            )

    def remove(self) -> None:
        """Undo the surgery; the subject can't be used after."""
        self.handle.remove()

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def _one_site(anatomy: Anatomy, site: Site | str) -> Site:
    return site if isinstance(site, Site) else single(anatomy.select(site), "a segment at")
