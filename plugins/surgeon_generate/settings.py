"""Settings of `generate`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Many = Annotated[int, Field(ge=0)]


class GenerateSettings(BaseModel):
    """Settings of `generate`; None means what the preset has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["default", "post"] = Field(
        "default", description="the best found here, or everything as the post's author did"
    )
    classes: list[int | str] = Field([], description="an image for each, by index or by name")
    objectives: list[str] = Field([], description="an image for each: `logit(3) - 0.5 * logit(4)`")
    sites: str | list[str] | None = Field(None, description="an image for each site")
    channels: list[Many] = Field([], description="of the sites: an image for each channel")
    tokens: list[Many] = Field([], description="of the sites: an image for each token")
    plus: str | None = Field(
        None, description='an objective added to each of the others; "": nothing'
    )
    parameterisation: Literal["pixel", "fourier", "maco"] | None = Field(
        None, description="what an image is made of"
    )
    transformations: list[str] | None = Field(
        None, description="random views, one piece after another: `scale(0.9, 1.1)`"
    )
    steps: Count | None = Field(None, description="gradient evaluations of an image, in all")
    coarse: Many | None = Field(
        None,
        description="steps that come first and show the model half the size",
    )
    focus: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="share of the coarse steps in which the sharp middle grows"
    )
    fade: Annotated[float, Field(ge=0)] | None = Field(
        None, description="times the rate: the share of the waves that a coarse step takes away"
    )
    rate: Positive | None = Field(None, description="learning rate at the first step")
    rate_end: Positive | None = Field(None, description="learning rate at the last step")
    canvas: Count | None = Field(
        None, description="height and width of the image in pixels; views are made the model's size"
    )
    blur_kernel: Literal[3, 17] = Field(
        17, description="of the post's blur: 3 in its text, 17 in its code for ViTs"
    )
    spectrum: str | list[str] | None = Field(
        None, description="photos whose amplitudes `maco` keeps; left out: the packaged ones"
    )
    seeds: list[int] = Field([0], min_length=1, description="an image for each")
    batch: Count = Field(10, description="images in one forward")
    snapshots: list[Count] = Field([], description="steps after which an image is kept as well")
    animation: Literal["gif", "webp"] | None = Field(None, description="write one of the way there")
    frames: Annotated[int, Field(ge=2, le=200)] = Field(24, description="of the animation")
    judge: str | None = Field(
        None, description='a second model that says what it sees: "source/name@weights"'
    )
    views: Many = Field(8, description="jittered and scaled views that the score is tested on")
    log_every: Count | None = Field(None, description="steps between two lines of the log")

    @model_validator(mode="after")
    def _consistent(self) -> GenerateSettings:
        if not (self.classes or self.objectives or self.sites):
            raise ValueError("name classes, objectives or sites")
        if (self.channels or self.tokens) and not self.sites:
            raise ValueError("channels and tokens are those of sites: name sites")
        fixed: tuple[str, ...] = ("parameterisation", "transformations", "coarse", "focus", "fade")
        fixed += ("rate", "rate_end", "canvas")
        given = [name for name in fixed if getattr(self, name) is not None]
        if self.preset == "post" and given:
            raise ValueError(f'preset = "post" sets {given[0]}; leave it out')
        if self.coarse and (self.canvas or self.parameterisation == "maco"):
            raise ValueError("coarse steps go with the model's own canvas, and not with maco")
        if self.fade and self.parameterisation not in (None, "fourier"):
            raise ValueError("fade is of waves: parameterisation = fourier")
        return self
