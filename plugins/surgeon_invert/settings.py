"""Settings of `invert`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class InvertSettings(BaseModel):
    """Settings of `invert`; None means what the method, or the preset, has by default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["post"] | None = Field(
        None, description="everything as the post's author did: no normalisation, start, loss, rate"
    )
    method: Literal["auto", "exact", "lbfgs", "adam", "descent"] = Field(
        "auto", description="how the image is found; auto: exact where it can be, else lbfgs"
    )
    steps: Count | None = Field(
        None, description="gradient evaluations at most, of one site, image and seed"
    )
    sites: str | list[str] | None = Field(
        None, description="selector or selectors; left out: the subject's output"
    )
    target: Literal["each", "joint"] = Field(
        "each", description="each site an inversion of its own, or all matched together"
    )
    seeds: list[int] = Field([0], min_length=1, description="of the start and the yardstick")
    loss: Literal["l1", "l2"] | None = Field(None, description="l1: c * sum |d|; l2: relative")
    loss_scale: Positive | None = Field(None, description="the factor c of the loss")
    rate: Positive | None = Field(None, description="learning rate at the first step")
    rate_end: Positive | None = Field(None, description="learning rate at the last step")
    coordinates: Literal["pixels", "spectrum"] | None = Field(
        None,
        description="what L-BFGS searches in: pixels, or frequencies scaled as in photos (what auto"
        " takes)",
    )
    blur: tuple[Positive, Positive] | None = Field(
        None, description="sigma of a Gaussian blur after each step, from first to last, in pixels"
    )
    blur_kernel: Count = Field(3, description="width of the blur's kernel in pixels, odd")
    tolerance: float = Field(
        0.0, ge=0, description="stop once |O(a) - O(a_g)| / |O(a)| is at most this"
    )
    snapshots: Annotated[int, Field(ge=0)] | list[Count] = Field(
        0,
        description="gradient evaluations after which an image is kept as well; a number: so many,"
        " spread evenly in their logarithm",
    )
    log_every: Count | None = Field(None, description="steps between two lines of the log")

    @model_validator(mode="after")
    def _consistent(self) -> InvertSettings:
        if self.blur_kernel % 2 == 0:
            raise ValueError("blur_kernel must be odd")
        if self.coordinates == "spectrum" and self.method not in ("auto", "lbfgs"):
            raise ValueError('coordinates = "spectrum" is of method = "lbfgs"')
        chosen = "method" in self.model_fields_set
        if self.preset == "post" and chosen and self.method != "descent":
            raise ValueError('preset = "post" is descent; leave method out')
        return self
