"""A state_dict as JSON with its tensors apart, and back, to the bit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import JsonValue
from torch import Tensor

from minigpt.errors import CheckpointError


def pack(value: object, tensors: dict[str, Tensor]) -> dict[str, JsonValue]:
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


def unpack(node: JsonValue, tensors: dict[str, Tensor]) -> object:
    """The inverse of `pack`.

    Raises:
        CheckpointError: The node is none that `pack` makes.
        KeyError: A tensor is missing.
        TypeError: What cannot be a key of a dict is one.
    """
    match node:
        case {"tensor": str(key)}:
            return tensors[key]
        case {"dict": [*pairs]}:
            return {unpack(key, tensors): unpack(item, tensors) for key, item in map(_pair, pairs)}
        case {"list": [*items]}:
            return [unpack(item, tensors) for item in items]
        case {"tuple": [*items]}:
            return tuple(unpack(item, tensors) for item in items)
        case {"value": content}:
            return content
        case dict():
            raise CheckpointError(f'unknown kind "{next(iter(node), "")}" in state.json')
    raise CheckpointError(f"found {type(node).__name__} in state.json; allowed: an object of one key")


def _pair(node: JsonValue) -> tuple[JsonValue, JsonValue]:
    match node:
        case [key, item]:
            return key, item
    raise CheckpointError("found another form in state.json; allowed: a key and a value")


def kind(value: object) -> str:
    """What a value is like, but for its content."""
    return f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def restored(saved: object, loaded: object) -> object:
    """`saved` with its own dtypes, each tensor on the device where torch put it when it loaded the state.

    Raises:
        TypeError: `loaded` has another form.
        KeyError: It lacks a part.
        ValueError: A sequence in it has another length.
    """
    match saved, loaded:
        case Tensor(), Tensor():
            return saved.to(loaded.device, copy=True)
        case dict(), Mapping():
            return {key: restored(value, loaded[key]) for key, value in saved.items()}
        case ((list() | tuple()), (list() | tuple())):
            return type(saved)(restored(value, there) for value, there in zip(saved, loaded, strict=True))
        case ((Tensor() | dict() | list() | tuple()), _):
            raise TypeError(f"found {kind(saved)}, where {kind(loaded)} is expected")
    return saved


def alone(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares memory with no other: safetensors saves no tensors that do."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def is_number(value: object) -> bool:
    """Whether it is one, and finite."""
    return isinstance(value, int | float) and math.isfinite(value)
