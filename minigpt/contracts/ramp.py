"""A number that changes while training."""

from __future__ import annotations

import math
from typing import Annotated, Literal, overload

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

Share = Annotated[float, Field(ge=0, le=1)]


class Ramp(BaseModel):
    """A number that moves from one value to another while training, in place of a constant one.

    Attributes:
        start: The value until `begin`.
        end: The value from `finish` on.
        begin: Share of the training after which it begins to move.
        finish: Share of the training after which it stays.
        shape: `linear`, or half a period of a cosine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    start: float
    end: float
    begin: Share = 0.0
    finish: Share = 1.0
    shape: Literal["linear", "cosine"] = "linear"

    @model_validator(mode="after")
    def _in_order(self) -> Ramp:
        if self.begin >= self.finish:
            raise ValueError(f"begin {self.begin} is not before finish {self.finish}")
        return self

    @overload
    def at(self, progress: float) -> float: ...
    @overload
    def at(self, progress: Tensor) -> Tensor: ...
    def at(self, progress: float | Tensor) -> float | Tensor:
        """The value when this share of the training is done. `ctx.progress` gives a tensor, which a compiled graph reads."""
        share = (progress - self.begin) / (self.finish - self.begin)
        share = share.clamp(0, 1) if isinstance(share, Tensor) else min(1.0, max(0.0, share))
        if self.shape == "cosine":
            share = (1 - (share * math.pi).cos()) / 2 if isinstance(share, Tensor) else (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share

    def times(self, factor: float) -> Ramp:
        """The ramp with both values multiplied."""
        return self.model_copy(update={"start": factor * self.start, "end": factor * self.end})


def value_at(value: float | Ramp, progress: float | Tensor) -> float | Tensor:
    """The value of a parameter that may be a ramp, when this share of the training is done."""
    return value.at(progress) if isinstance(value, Ramp) else value


def _not_negative(ramp: Ramp) -> Ramp:
    if min(ramp.start, ramp.end) < 0:
        raise ValueError("start and end must be 0 or more")
    return ramp


def _rate(ramp: Ramp) -> Ramp:
    if not (0 <= ramp.start < 1 and 0 <= ramp.end < 1):
        raise ValueError("start and end must be 0 or more, and below 1")
    return ramp


Amount = Annotated[float, Field(ge=0)] | Annotated[Ramp, AfterValidator(_not_negative)]
"""Type of a parameter that is 0 or more, or a ramp between such values."""

Rate = Annotated[float, Field(ge=0, lt=1)] | Annotated[Ramp, AfterValidator(_rate)]
"""Type of a parameter that is a rate, or a ramp between rates."""
