"""Study files: their keys, and reading them with errors that say file, line and key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr
from pydantic import ValidationError as Invalid

from surgeon.errors import StudyError
from surgeon.toml_files import Where, settings_error


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Skip(_Table):
    """Cells that are left out."""

    when: dict[str, Any] = Field(
        min_length=1, description="axis (or `probe`) -> its label, or a list of labels"
    )
    why: StrictStr = Field("", description="shown in the report")


class Check(BaseModel):
    """A finding and how it is checked; further keys are settings of the check."""

    model_config = ConfigDict(extra="allow", frozen=True)

    claim: StrictStr = Field(description="what is claimed, as a sentence")
    check: StrictStr = Field(description="a built-in check, or `module:function`")

    def settings(self) -> dict[str, Any]:
        """Every key of the table."""
        return self.model_dump()


class Curve(_Table):
    """One chart of the study's picture."""

    figure: StrictStr = Field(description="which figure of the runs")
    along: StrictStr = Field(description="the axis to the right")
    lines: StrictStr | None = Field(None, description="an axis: one line for each of its values")
    log: StrictBool = Field(False, description="logarithmic upwards")
    probe: StrictStr | None = Field(None, description="of this probe's runs alone")
    title: StrictStr = Field("", description="above the chart")


class StudyFile(_Table):
    """The keys of a study file."""

    title: StrictStr = Field(description="shown on top")
    question: StrictStr = Field("", description="what the study asks")
    experiment: Annotated[StrictStr | None, BeforeValidator(_as_text)] = Field(
        None, description="a label of your own, such as a number"
    )
    tier: Literal["packaged", "named"] | None = Field(
        None, description="packaged: runs offline on packaged models; named: on the models named"
    )
    probes: list[StrictStr] = Field(
        [], description="one run per cell and probe; left out: every probe of the recipe"
    )
    stand_in: StrictStr | None = Field(None, description="what stands in for what, as a sentence")
    axes: dict[str, list[Any]] = Field(
        {}, description="name -> values, crossed in the order written, the last one fastest"
    )
    recipe: dict[str, Any] | StrictStr = Field(
        description="a recipe's tables, its file, or `surgeon:NAME`, with `${axis}` in its values"
    )
    skip: list[Skip] = Field([], description="cells that are left out")
    findings: list[Check] = Field([], description="checks of findings, chosen beforehand")
    curves: list[Curve] = Field([], description="charts of the study's picture")


def checked_file(table: dict[str, Any], where: Where) -> StudyFile:
    """A study's tables, checked.

    Raises:
        StudyError: an unknown key, a missing one, a wrong type.
    """
    table = dict(table)
    if table.pop("schema", 1) != 1:
        raise StudyError(
            f"schema ({where(('schema',))})", "this Surgeon reads schema 1", "schema = 1"
        )
    try:
        return StudyFile(**table)
    except Invalid as cause:
        place = min(cause.errors(), key=lambda e: e["type"] != "extra_forbidden")["loc"]
        parts: dict[str, type[BaseModel]] = {"skip": Skip, "curves": Curve, "findings": Check}
        known: type[BaseModel] = StudyFile if len(place) < 2 else parts.get(str(place[0]), Skip)
        names = ["schema", *known.model_fields]
        raise settings_error(cause, (), where, names, StudyError) from None


def study_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of study files."""
    schema = StudyFile.model_json_schema()
    schema["title"] = "Surgeon study"
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"] |= {"schema": {"const": 1}}
    return schema
