"""Weight decay on matrices only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from minigpt.contracts import NamedParameter

Momentum = Annotated[float, Field(ge=0, lt=1)]


def decay_groups(parameters: Sequence[NamedParameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices, embeddings and head with weight decay; biases and gains without."""
    decayed = [p.tensor for p in parameters if p.role != "vector"]
    plain = [p.tensor for p in parameters if p.role == "vector"]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
