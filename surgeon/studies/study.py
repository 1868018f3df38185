"""Studies: a grid of recipes as data, read from a file, and its cells. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from surgeon.errors import ProbeError, StudyError, SurgeonError, nearest
from surgeon.recipe import Recipe
from surgeon.recipe_file import checked_settings, recipe_of
from surgeon.registry import registry
from surgeon.studies.study_file import Check, Curve, Skip, checked_file
from surgeon.studies.substitution import scalar_text, substituted
from surgeon.toml_files import Where, apply_override, packaged_text, parse_toml

#: Columns of a study's table that an axis can't be called.
COLUMNS = ("probe", "site", "run")


@dataclass(frozen=True)
class Cell:
    """One combination of an axis value each, under one probe.

    Attributes:
        labels: axis -> label.
        probe: what runs on it.
        recipe: with the cell's values in it, and of the probes' settings this probe's alone; None
            for a cell left out.
        values: axis -> value.
        why: it was left out for; None: it was not.
    """

    labels: dict[str, str]
    probe: str
    recipe: Recipe | None
    values: dict[str, Any]
    why: str | None = None

    @property
    def name(self) -> str:
        """For messages: "k=3, image=surgeon:boot, invert"."""
        return cell_name(self.labels, self.probe)


@dataclass(frozen=True)
class Study:
    """A grid of recipes that ends in one table, its findings checked.

    Made by `Study.read`, `Study.from_toml` or `Study.from_dict`.

    Attributes:
        name: of its folder: the file's stem, or the packaged study's name.
        title, question, experiment, tier, stand_in, probes: as in its file.
        axes: name -> label -> value, in the order written.
        recipe: tables with `${axis}` in their values, or the text of where they are.
        skip, findings, curves: as in its file.
        table: the whole of it, as its file has it, overrides included.
        where: says where in its file a key stands.
    """

    name: str
    title: str
    question: str
    experiment: str | None
    tier: str | None
    stand_in: str | None
    probes: tuple[str, ...]
    axes: Mapping[str, Mapping[str, Any]]
    recipe: Mapping[str, Any] | str
    skip: tuple[Skip, ...]
    findings: tuple[Check, ...]
    curves: tuple[Curve, ...]
    table: Mapping[str, Any] = field(repr=False)
    where: Where = field(repr=False, compare=False)

    # --- making

    @classmethod
    def read(cls, path: str | Path, overrides: Iterable[str] = ()) -> Study:
        """Read a file, or a packaged study as "surgeon:NAME".

        Args:
            overrides: "axes.k=[0, 1]", "recipe.probes.invert.steps=20" and the like.

        Raises:
            StudyError, RecipeError: missing or wrong; file, line and key are named.
        """
        text, source = packaged_text(str(path), "study", StudyError), str(path)
        packaged = source.startswith("surgeon:")
        name = source.removeprefix("surgeon:") if packaged else Path(source).stem
        return cls.from_toml(text, source=source, name=name, overrides=overrides)

    @classmethod
    def from_toml(
        cls,
        text: str,
        *,
        source: str = "study",
        name: str = "study",
        overrides: Iterable[str] = (),
    ) -> Study:
        """Read TOML text; errors name `source`, line and key.

        Raises:
            StudyError, RecipeError: no TOML, an unknown key, a wrong type.
        """
        table, given = parse_toml(text, source, StudyError), list(overrides)
        recipe = table.get("recipe")
        if isinstance(recipe, str) and any(o.startswith("recipe.") for o in given):
            table["recipe"] = _tables_of(recipe)
        for override in given:
            apply_override(table, override)
        return cls._of(table, name, Where(source, text, given))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], *, name: str = "study") -> Study:
        """A study of its tables, as its file would have them.

        Raises:
            StudyError, RecipeError: an unknown key, a wrong type.
        """
        import tomli_w

        return cls.from_toml(tomli_w.dumps(dict(table)), name=name)

    @classmethod
    def _of(cls, table: dict[str, Any], name: str, where: Where) -> Study:
        file = checked_file(table, where)
        axes = {axis: _labelled(axis, values, where) for axis, values in file.axes.items()}
        made = cls(
            name, file.title, file.question, file.experiment, file.tier, file.stand_in,
            tuple(file.probes), axes, file.recipe, tuple(file.skip), tuple(file.findings),
            tuple(file.curves), table, where,
        )  # fmt: skip
        _check_axes_named(made)
        from surgeon.studies.judging import check_settings

        for i, finding in enumerate(made.findings):
            check_settings(finding, ("findings", i), where)
        return made

    def to_toml(self) -> str:
        """Its TOML text: as read, or with what overrides changed in place."""
        import tomli_w

        if not self.where.overrides:
            return self.where.text
        return tomli_w.dumps(dict(self.table))

    # --- cells

    def cells(self) -> list[Cell]:
        """Every cell that runs: the axes crossed, the last one and then the probe fastest.

        Raises:
            StudyError, RecipeError, ProbeError: a cell's recipe is wrong; says which cell's.
        """
        return [cell for cell in self.grid() if cell.why is None]

    def grid(self) -> list[Cell]:
        """Every cell, those left out too."""
        return [cell for labels in self._combinations() for cell in self._cells_at(labels)]

    def _combinations(self) -> Iterator[dict[str, str]]:
        for labels in product(*(values for values in self.axes.values())):
            yield dict(zip(self.axes, labels, strict=True))

    def _cells_at(self, labels: dict[str, str]) -> Iterator[Cell]:
        values = {axis: self.axes[axis][label] for axis, label in labels.items()}
        whole: Recipe | None = None
        if not self.probes or any(self._skipped({**labels, "probe": p}) is None
                                  for p in self.probes):  # fmt: skip
            whole = self._recipe_at(labels, values)
        for probe in self.probes or tuple(whole.probes if whole else ()):
            cell = Cell(labels, probe, None, values, self._skipped({**labels, "probe": probe}))
            if cell.why is None and whole is not None:
                yield replace(cell, recipe=_for_probe(whole, cell))
            else:
                yield cell

    def _skipped(self, labels: Mapping[str, str]) -> str | None:
        for skip in self.skip:
            if all(labels[axis] in labels_of(given) for axis, given in skip.when.items()):
                return skip.why
        return None

    def _recipe_at(self, labels: Mapping[str, str], values: Mapping[str, Any]) -> Recipe:
        where = self.where.within("recipe")
        try:
            tables = substituted(self.recipe, values, where)
            if isinstance(tables, str):
                text = packaged_text(tables, "recipe")
                where = Where(tables, text)
                tables = substituted(parse_toml(text, tables), values, where)
            if not isinstance(tables, dict):
                raise StudyError("recipe", f"a {type(tables).__name__}", "its tables, or its file")
            recipe = recipe_of(tables, where)
        except SurgeonError as error:
            cell = labels_text(labels)
            raise (error.located(f"cell {cell}") if cell else error) from error.__cause__
        if recipe.model is None:
            raise StudyError(
                f"the recipe of {self.where.source}", "it names no model", "a [recipe.model] table"
            )
        return recipe


def _for_probe(recipe: Recipe, cell: Cell) -> Recipe:
    """A recipe with this probe's settings alone: what another probe is told is none of its run."""
    settings = dict(recipe.probes.get(cell.probe, {}))
    try:
        checked_settings(cell.probe, settings)
    except ProbeError as error:
        raise error.located(f"cell {cell.name}") from error.__cause__
    return recipe.updated(probes={cell.probe: settings})


def _tables_of(recipe: str) -> dict[str, Any]:
    return parse_toml(packaged_text(recipe, "recipe"), recipe)


def labels_text(labels: Mapping[str, str]) -> str:
    """For messages: "k=3, image=surgeon:boot"."""
    return ", ".join(f"{axis}={label}" for axis, label in labels.items())


def cell_name(labels: Mapping[str, str], probe: str) -> str:
    """For messages: "k=3, image=surgeon:boot, invert"."""
    return f"{labels_text(labels)}, {probe}" if labels else probe


def labels_of(given: Any) -> list[str]:
    """The labels that a value of `when` or `where` means: itself, or each of a list."""
    return [scalar_text(item) for item in (given if isinstance(given, list) else [given])]


def _labelled(axis: str, values: list[Any], where: Where) -> dict[str, Any]:
    """The values of an axis by label."""
    key = ("axes", axis)
    asked = f"axes.{axis} ({where(key)})"
    if axis in COLUMNS:
        raise StudyError(asked, "the table has a column of that name", f"{axis}_ or another name")
    if not values:
        raise StudyError(asked, "it has no values", "at least one, or leave the axis out")
    found: dict[str, Any] = {}
    for value in values:
        label = value.get("label") if isinstance(value, dict) else value
        if isinstance(value, list) or (isinstance(value, dict) and not isinstance(label, str)):
            kind = "list" if isinstance(value, list) else "table"
            raise StudyError(asked, f"a {kind} without a label", '{label = "a name", value = ...}')
        text = scalar_text(label)
        if text in found:
            raise StudyError(asked, f'two values are called "{text}"', "a label for each")
        found[text] = value
    return found


def _check_axes_named(study: Study) -> None:
    """See that what names an axis or a label names one there is."""
    for i, skip in enumerate(study.skip):
        for axis, given in skip.when.items():
            asked = f"skip[{i}].when.{axis} ({study.where(('skip', i, 'when'))})"
            known = study.probes if axis == "probe" else study.axes.get(axis)
            if known is None:
                raise StudyError(asked, "no such axis", nearest(axis, [*study.axes, "probe"]))
            for label in labels_of(given):
                if label not in known:
                    raise StudyError(asked, f'no value is called "{label}"', nearest(label, known))
    for i, curve in enumerate(study.curves):
        for name in ("along", "lines"):
            axis = getattr(curve, name)
            if axis is not None and axis not in (*study.axes, "site"):
                asked = f"curves[{i}].{name} ({study.where(('curves', i, name))})"
                raise StudyError(asked, f'no axis "{axis}"', nearest(axis, [*study.axes, "site"]))


def studies_of(name: str, tier: str | None = None) -> list[str]:
    """The packaged studies that "surgeon:NAME" means: the one, or all of a group.

    Args:
        name: "surgeon:post/10", or "surgeon:post" for every one that begins "post/".
        tier: those of this tier alone.

    Returns:
        "surgeon:..." each, numbers in their order.

    Raises:
        StudyError: there is none.
    """
    own = name.removeprefix("surgeon:")
    entries = registry().entries["study"]
    if own in entries:
        return [name]
    group = [entry.name for entry in registry().all("study") if entry.name.startswith(f"{own}/")]
    if not group:
        registry().find("study", own, StudyError)
    found = [f"surgeon:{n}" for n in group]
    if tier is not None:
        found = [n for n in found if Study.read(n).tier in (tier, None)]
    if not found:
        raise StudyError(f"studies {name} of tier {tier}", "there are none", "another --tier")
    return found
