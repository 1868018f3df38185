"""Settings of `filters`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]


class FiltersSettings(BaseModel):
    """Settings of `filters`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sites: str | list[str] = Field(
        "stem", description="whose first convolution (or linear patch embedding) is looked at"
    )
    count: Count = Field(64, description="filters shown")
    columns: Count = Field(8, description="filters in a row")
    order: Literal["index", "score"] = Field("index", description="as they are, or best first")
    compare: str | None = Field(
        "untrained", description='shown beside: "untrained", "source/name@weights", or "none"'
    )
    null_seeds: Annotated[int, Field(ge=1, le=100)] = Field(
        8, description="untrained seeds at most for the null distribution"
    )
    null_filters: Count = Field(512, description="filters that are enough for it")
    layout: Literal["chw", "hwc"] = Field(
        "chw", description="how a linear patch embedding reads a patch"
    )
