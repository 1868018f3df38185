"""Settings of `diagnose`. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]


class DiagnoseSettings(BaseModel):
    """Settings of `diagnose`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sites: str | list[str] | None = Field(
        None, description="where the map from the pixels ends; left out: the subject's output"
    )
    sublayers: str | list[str] | None = Field(
        None, description="sublayers to judge alone; left out: all up to the deepest of `sites`, "
        "those beyond the first block more cheaply; []: none",
    )  # fmt: skip
    collision: bool = Field(True, description="look for a second image with the same output")
    collision_budget: CountOrNone | None = Field(
        None, description="gradient evaluations of a search for that image, where the stem has no "
        "null space; 0: no search; left out: 300, fewer where one is over 1e10 FLOP, at least 20",
    )  # fmt: skip
    twin_steps: CountOrNone = Field(
        60,
        description="steps of a plain inversion from each site, drawn beside it; 0: none",
    )
    dense: Count = Field(1024, description="columns at most of a Jacobian that is worked out whole")
    products: CountOrNone = Field(
        700, description="products with a larger Jacobian, and about as many with its inverse, "
        "that may be spent on its extremes; 0: none",
    )  # fmt: skip
    tokens: Count = Field(
        256, description="tokens at most of a token-wise sublayer, those of least variance first"
    )
    batch: Count = Field(8, description="tokens judged in one step")
    search: CountOrNone = Field(
        2, description="tokens of a sublayer whose other pre-images are looked for; those with a "
        "negative determinant first, then the least invertible",
    )  # fmt: skip
    starts: Count = Field(12, description="starts of that search")
