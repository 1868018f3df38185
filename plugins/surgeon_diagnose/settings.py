"""Settings of `diagnose`. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]


class DiagnoseSettings(BaseModel):
    """Settings of `diagnose`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sites: str | list[str] | None = Field(
        None, description="where the map from the pixels ends; left out: the subject's output"
    )
    sublayers: str | list[str] | None = Field(
        None, description="sublayers to judge alone; left out: those of the first block"
    )
    collision: bool = Field(True, description="look for a second image with the same output")
    dense: Count = Field(1024, description="columns at most of a Jacobian that is worked out whole")
    tokens: Count = Field(
        256, description="tokens at most of a token-wise sublayer, those of least variance first"
    )
    batch: Count = Field(8, description="tokens judged in one step")
    search: int = Field(
        2, ge=0, description="tokens of a sublayer, with a negative determinant, whose other "
        "pre-images are looked for; those of least variance first",
    )  # fmt: skip
    starts: Count = Field(12, description="starts of that search")
