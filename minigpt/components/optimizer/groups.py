"""Weight decay on matrices only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from minigpt.contracts import NamedParameter, Ramp

Momentum = Annotated[float, Field(ge=0, lt=1)]


def decay_groups(parameters: Sequence[NamedParameter], weight_decay: float | Ramp) -> list[dict[str, Any]]:
    """Matrices, embeddings and head with weight decay, which may change while training; biases and gains without."""
    decayed = [p.tensor for p in parameters if p.role != "vector"]
    plain = [p.tensor for p in parameters if p.role == "vector"]
    groups = [{"params": decayed, **decay(weight_decay)}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def decay(weight_decay: float | Ramp) -> dict[str, Any]:
    """A group's keys for a weight decay: the number, and its ramp if it changes while training."""
    if isinstance(weight_decay, Ramp):
        return {"weight_decay": weight_decay.at(0.0), "ramps": {"weight_decay": weight_decay.model_dump()}}
    return {"weight_decay": weight_decay}
