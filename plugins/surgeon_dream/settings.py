"""Settings of `dream`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class DreamSettings(BaseModel):
    """Settings of `dream`; None means what the preset has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["default", "post"] = Field("default", description="or the author's schedule")
    sites: str | list[str] | None = Field(
        None, description="raised together; left out: the middle block"
    )
    channels: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="of the sites; left out: the whole site"
    )
    guide: str | None = Field(None, description="a second image, whose features are sought instead")
    plus: str | None = Field(
        None, description='an objective added: `0.1 * logit("dalmatian")` blends a class in'
    )
    size: Count | None = Field(
        None, description="shorter side of the picture in pixels; left out: by the model's size"
    )
    octaves: Annotated[int, Field(ge=1, le=12)] | None = Field(
        None, description="sizes that the photo goes through"
    )
    octave_scale: Annotated[float, Field(gt=1, le=4)] | None = Field(
        None, description="from one octave to the next"
    )
    steps: Count | None = Field(None, description="steps of each octave")
    rate: Positive | None = Field(
        None,
        description="mean change of a pixel in a step, of [0, 1]",
    )
    tile: Count | None = Field(
        None, description="height and width of the tiles that gradients are made in, in pixels"
    )
    canvas: Literal["auto", "whole", "crops"] = Field(
        "auto", description="tiles of any size, or crops of the model's own size"
    )
    seed: int = Field(0, description="of the shifts")
    log_every: Count = Field(1, description="steps between two lines of the log")

    @model_validator(mode="after")
    def _consistent(self) -> DreamSettings:
        fixed = ("octaves", "octave_scale", "rate")
        given = [name for name in fixed if getattr(self, name) is not None]
        if self.preset == "post" and given:
            raise ValueError(f'preset = "post" sets {given[0]}; leave it out')
        return self
