"""Settings of the built-in checks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

#: Of a value of an axis, as a study file may write it.
Label = StrictStr | StrictBool | StrictInt | StrictFloat


class Common(BaseModel):
    """Settings of every built-in check."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    claim: str = Field(description="what is claimed")
    check: str = Field(description="the check's name")
    where: dict[str, Any] = Field(
        {}, description="these cells alone: axis (`probe`, `site`) -> label, or a list of labels"
    )


class Measured(Common):
    """Settings of the checks that hold a figure against a threshold."""

    figure: str = Field(description="which figure of the runs")
    threshold: float = Field(description="chosen beforehand")
    margin: float = Field(0.0, ge=0, description="undecided this near the threshold")


class Level(Measured):
    """Settings of `above` and `below`."""

    share: float = Field(1.0, gt=0, le=1, description="of the cells that must be so; 1: all")


class Along(Measured):
    """Settings of `spread`, of each line along an axis."""

    along: str = Field(description="axis")
    measure: Literal["difference", "ratio"] = Field("difference", description="of two values")
    wants: Literal["at most", "at least"] = Field("at most", description="the threshold's side")
    share: float = Field(1.0, gt=0, le=1, description="of the lines that must be so; 1: all")


class Trend(Measured):
    """Settings of `falls` and `rises`, of each line along an axis."""

    along: str = Field(description="axis")
    measure: Literal["difference", "ratio"] = Field(
        "difference", description="of the first and the last value"
    )
    correlation: float = Field(0.8, ge=0, le=1, description="Spearman's, at least")
    share: float = Field(1.0, gt=0, le=1, description="of the lines that must be so; 1: all")


class Comparison(Measured):
    """Settings of `compare`: cells alike but for one axis, in pairs."""

    axis: str = Field(description="axis of the two")
    first: Label = Field(description="label")
    second: Label = Field(description="label")
    measure: Literal["difference", "ratio"] = Field(
        "difference", description="first - second, or first / second"
    )
    wants: Literal["at most", "at least"] = Field("at least", description="the threshold's side")


class Equality(Common):
    """Settings of `equal`, of each line along an axis."""

    figure: str = Field(description="which figure of the runs")
    along: str = Field(description="axis")
    threshold: float = Field(0.0, ge=0, description="numbers may differ by this")


class Unfit(Common):
    """Settings of `not_applicable`."""

    why: str = Field(description="why the claim has no meaning here")
