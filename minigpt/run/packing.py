"""A state_dict as JSON with its tensors apart, and back, to the bit."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from minigpt.errors import CheckpointError


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A tree of dicts, lists, tuples, tensors and plain values as JSON; tensors go to `tensors` and leave their key.

    Raises:
        CheckpointError: Something in the tree is none of these.
    """
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = alone(value)
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise CheckpointError(
        f"an optimizer's state may not hold a {type(value).__name__}: it could not be saved without pickle"
    )


def unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    ((form, content),) = node.items()
    if form == "tensor":
        return tensors[content]
    if form == "dict":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in content}
    if form in ("list", "tuple"):
        items = [unpack(item, tensors) for item in content]
        return items if form == "list" else tuple(items)
    if form == "value":
        return content
    raise CheckpointError(f'unknown kind "{form}" in state.json')


def kind(value: Any) -> str:
    """What a value is like, but for its content."""
    return f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def restored(saved: Any, loaded: Any) -> Any:
    """`saved` with its own dtypes, each tensor on the device where torch put it when it loaded the state."""
    if isinstance(saved, Tensor):
        return saved.to(loaded.device, copy=True)
    if isinstance(saved, dict):
        return {key: restored(value, loaded[key]) for key, value in saved.items()}
    if isinstance(saved, list | tuple):
        return type(saved)(restored(value, there) for value, there in zip(saved, loaded, strict=True))
    return saved


def alone(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares memory with no other: safetensors saves no tensors that do."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def is_number(value: Any) -> bool:
    """Whether it is one, and finite."""
    return isinstance(value, int | float) and math.isfinite(value)
