"""Settings of the plugin's three small probes. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class AnatomySettings(BaseModel):
    """Settings of `anatomy`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    block: Annotated[int, Field(ge=0)] = Field(0, description="the block that is drawn in full")


class PermutationSettings(BaseModel):
    """Settings of `permutation`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sites: str | list[str] | None = Field(
        None, description="selector or selectors; left out: the subject's output"
    )
    arrangements: Annotated[int, Field(ge=2)] = Field(
        256, description="of the photo's patches, from which the decoder learns"
    )
    held_out: Count = Field(16, description="further arrangements, on which it is scored")
    ridge: Positive = Field(1e-3, description="of the decoder, relative to the mean variance")
    batch: Count = Field(32, description="arrangements in one forward")
    seed: int = Field(0, description="of the arrangements")


class LayerNormSettings(BaseModel):
    """Settings of `layernorm`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vectors: list[list[float]] = Field(
        [[0, 2, 4], [-1, 0, 1], [2.1, 2.2, 2.3]],
        description="of one length, mapped by one layer normalisation",
        min_length=2,
    )
    eps: list[Positive] = Field(
        [1e-5, 1e-7, 1e-9, 1e-12], min_length=1, description="of the layer normalisation"
    )
