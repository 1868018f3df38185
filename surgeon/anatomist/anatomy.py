"""Everything Surgeon knows of a model, and the selection of sites in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

from surgeon.anatomist import roles
from surgeon.anatomist.graph import Call, Graph
from surgeon.anatomist.reading import Block, Reading
from surgeon.anatomist.residuals import Residual
from surgeon.anatomist.selectors import Step, parse_role
from surgeon.anatomist.site import Selection, Site
from surgeon.errors import SelectionError, nearest
from surgeon.notebook import Shown

_NO_PART = Step("")


@dataclass(frozen=True)
class Anatomy(Shown):
    """What a model is made of: roles, sites, shapes, order of execution, what can't be hooked.

    Attributes:
        model: class name of the model.
        graph: the recorded dataflow.
        reading: the graph read as stem, blocks, head.
        input_size: (channels, height, width) it was recorded with.
    """

    model: str
    graph: Graph
    reading: Reading
    input_size: tuple[int, ...]

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.reading.blocks

    @property
    def residuals(self) -> tuple[Residual, ...]:
        return self.reading.residuals

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every site with a role, in order of execution."""
        found = [
            *roles.single_sites(self.graph, self.reading),
            *(s for i, b in enumerate(self.blocks) for s in self._block_sites(b, i)),
            *(s for s in roles.stage_sites(self.graph, self.reading) if self._staged),
            *self._loose_residuals,
        ]
        return tuple(sorted(found, key=lambda site: site.order))

    @property
    def _staged(self) -> bool:
        return bool(self.blocks) and self.blocks[-1].stage > 0

    def _block_sites(self, block: Block, index: int) -> list[Site]:
        return list(roles.block_sites(self.graph, block, f"blocks[{index}]"))

    @cached_property
    def _loose_residuals(self) -> list[Site]:
        """Residual adds outside every block."""
        inside = {s.residual.op.index for b in self.blocks for s in b.sublayers}
        return [
            roles.add_site(self.graph, r, f"residuals[{i}]")
            for i, r in enumerate(self.residuals)
            if r.op.index not in inside
        ]

    @cached_property
    def hidden(self) -> dict[str, str]:
        """Modules that can't be hooked, by path, with the reason and what to select instead."""
        return roles.hidden_modules(self.graph)

    # --- selection

    def select(self, selector: str | Iterable[str]) -> Selection:
        """The sites a selector, or each of several, matches, in order of execution.

        Args:
            selector: a role ("blocks[4:8].attention"), a module or parameter path, or "path:"
                followed by a path in which `*` and `?` are wild.

        Returns:
            A selection of one site or more.

        Raises:
            SelectionError: malformed, or matches nothing; the nearest names are given.

        >>> from surgeon.testing import tiny_vit_anatomy
        >>> len(tiny_vit_anatomy().select("blocks[*].attention"))
        2
        """
        texts = [selector] if isinstance(selector, str) else list(selector)
        found: dict[tuple[object, ...], Site] = {}
        for text in texts:
            matched = self._match(text)
            if not matched:
                raise self._miss(text)
            for site in matched:
                found[site.kind, site.path, site.call, site.op] = site
        ordered = sorted(found.values(), key=lambda site: site.order)
        return Selection(", ".join(texts), tuple(ordered))

    def sites_of(self, chosen: str | Site | Iterable[str | Site]) -> list[Site]:
        """Sites, given as such or by selectors, in order of execution."""
        items = [chosen] if isinstance(chosen, (str, Site)) else list(chosen)
        found: list[Site] = []
        for item in items:
            found += [item] if isinstance(item, Site) else self.select(item)
        return sorted(found, key=lambda site: site.order)

    def _match(self, text: str) -> list[Site]:
        if text.startswith("path:"):
            return self._by_glob(text.removeprefix("path:"))
        steps = parse_role(text)
        found = self._by_role(steps) if steps else []
        return found or self._by_path(text)

    def _by_role(self, steps: tuple[Step, ...]) -> list[Site]:
        first, *rest = steps
        if first.name == "residuals":
            sites = [roles.add_site(self.graph, r, None) for r in self.residuals]
            return [self.named(site) for site in first.index.of(sites)]
        if first.name == "stages" and not rest:
            return first.index.of(list(roles.stage_sites(self.graph, self.reading)))
        if first.name == "stages":
            part = rest[1] if len(rest) > 1 else _NO_PART
            return self._in_blocks(self._staged_blocks(first, rest[0]), part)
        if first.name == "blocks":
            part = rest[0] if rest else _NO_PART
            return self._in_blocks(first.index.of(range(len(self.blocks))), part)
        return [site for site in self.sites if site.role == first.name]

    def _staged_blocks(self, stages: Step, blocks: Step) -> list[int]:
        last = self.blocks[-1].stage if self.blocks else -1
        return [
            i
            for stage in stages.index.of(range(last + 1))
            for i in blocks.index.of([i for i, b in enumerate(self.blocks) if b.stage == stage])
        ]

    def _in_blocks(self, indices: Sequence[int], part: Step) -> list[Site]:
        return [site for i in indices for site in self._in_block(i, part)]

    def _in_block(self, index: int, part: Step) -> list[Site]:
        block, name = self.blocks[index], f"blocks[{index}]"
        sites = self._block_sites(block, index)
        if part.name == "":
            return sites[:1]
        if part.name in ("norm", "residual"):
            return [s for s in sites if s.role == f"{name}.{part.name}{part.number}"]
        sublayers = [s for s in sites if s.kind == "sublayer"]
        if part.name == "sublayers":
            return part.index.of(sublayers)
        mixes = part.name != "mlp"
        return [s for s, sub in zip(sublayers, block.sublayers, strict=True) if sub.mixes == mixes]

    def named(self, site: Site) -> Site:
        """An add under the name it has in its block, else as one of all residuals."""
        known = {s.op: s for s in self.sites if s.kind == "add"}
        return known.get(site.op, site)

    def _by_path(self, path: str) -> list[Site]:
        path, _, number = path.partition("#")
        calls = self.graph.calls_by_path.get(path, ()) if path else ()
        if calls:
            chosen = [c for c in calls if not number or str(c.nth) == number]
            return [roles.module_site(self.graph, call) for call in chosen]
        if path in self.graph.parameters:
            return [roles.parameter_site(self.graph, path)]
        if path in self.hidden:
            site = Site(None, path, 0, 0, "module", (), self.hidden[path])
            return [site]
        return []

    def _by_glob(self, pattern: str) -> list[Site]:
        paths = [*self.graph.modules, *self.graph.parameters]
        exact = [p for p in paths if p and fnmatchcase(p, pattern.replace("[", "[[]"))]
        return [site for path in dict.fromkeys(exact) for site in self._by_path(path)]

    def _miss(self, text: str) -> SelectionError:
        named, paths = [s.role for s in self.sites if s.role], [p for p in self.graph.modules if p]
        names = paths if text.startswith("path:") else named + paths
        total = len(self.sites)
        if text.startswith(("blocks[", "stages[")):
            found = f"{self.model} has {len(self.blocks)} blocks; none of them has this"
        else:
            found = f"it matches none of {total} roles and {len(self.graph.modules)} modules"
            found += f" of {self.model}"
        return SelectionError(
            f'selector "{text}"', found, nearest(text.removeprefix("path:"), names)
        )

    # --- facts about sites

    @cached_property
    def entry(self) -> Site | None:
        """The input of block 0, as a site; None where it is the image itself or there is none."""
        if not self.blocks:
            return None
        value = next((v for v in self.blocks[0].call.inputs if v in self.graph.live), None)
        return None if value is None else self.site_of_value(value)

    def site_of_value(self, value: int) -> Site | None:
        """A value as a site: where the function that makes it runs. None for the image."""
        op = self.graph.producer.get(value)
        if op is None or op.name in ("opaque", "shared_memory"):
            return None
        call = self.graph.calls[op.call]
        shape = self.graph.values[value].shape
        return Site(None, call.path, call.nth, op.index + 1, "module", shape, None, value, op.index)

    def where_made(self, site: Site) -> Site:
        """In place of the whole model the site its output is made at, any other site as it is: a
        forward can't be stopped at its own end."""
        if site.path or site.value is None:
            return site
        made = {s.value: s for s in self.sites if s.kind == "module" and s.path}
        return made.get(site.value) or self.site_of_value(site.value) or site

    def residuals_in(self, site: Site) -> list[Residual]:
        """Residual adds at a site: an add's or sublayer's own, all those inside a module."""
        if site.kind in ("add", "sublayer"):
            return [r for r in self.residuals if r.op.index == site.op]
        if site.kind == "parameter":
            return []
        calls = self.graph.calls_by_path.get(site.path, ())
        spans = [(c.start, c.end) for c in calls if c.nth == site.call]
        return [r for r in self.residuals if any(a <= r.op.index < b for a, b in spans)]

    def call_of(self, site: Site) -> Call | None:
        """The module call a site is, None for adds, sublayers and parameters."""
        if site.kind != "module":
            return None
        calls = self.graph.calls_by_path.get(site.path, ())
        return next((c for c in calls if c.nth == site.call), None)

    def parameters_of(self, site: Site) -> list[str]:
        """Paths of the parameters and buffers a site owns, as `swap` and `reinit` mean it."""
        if site.kind == "parameter":
            return [site.path]
        if site.kind == "sublayer":
            found = [s for b in self.blocks for s in b.sublayers if s.residual.op.index == site.op]
            return list(found[0].parameters)
        if site.kind == "add":
            return []
        prefix = site.path + "." if site.path else ""
        return [n for n in self.graph.parameters if n == site.path or n.startswith(prefix)]

    def __str__(self) -> str:
        from surgeon.anatomist.tree import text

        return text(self)
