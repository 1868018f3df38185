"""Settings of `evaluate`. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]


class EvaluateSettings(BaseModel):
    """Settings of `evaluate`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(
        "surgeon:fashion_mnist",
        description='"surgeon:NAME", "torchvision:NAME:FOLDER", or a folder of class folders',
    )
    batch: Count = Field(250, description="images in one forward")
    limit: Count | None = Field(None, description="the first so many images only")
    compare: bool = Field(
        True, description="run the un-operated model too: agreement and logit shift"
    )
    examples: Annotated[int, Field(ge=0)] = Field(
        12, description="images shown that only one of the two models has right"
    )
