"""Convert a state_dict to JSON and separate tensors, and back, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import JsonValue
from torch import Tensor

from minigpt.errors import CheckpointError


def pack(value: object, tensors: dict[str, Tensor]) -> dict[str, JsonValue]:
    """Convert a tree of dicts, lists, tuples, tensors and plain values to JSON.

    Tensors are put into `tensors`; the JSON contains their keys.

    Raises:
        CheckpointError: The tree contains a value of another kind.
    """
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = cpu_copy(value)
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise CheckpointError(
        f"an optimizer's state may not hold a {type(value).__name__}, because it could not be saved without pickle"
    )


def unpack(node: JsonValue, tensors: dict[str, Tensor]) -> object:
    """The inverse of `pack`.

    Raises:
        CheckpointError: `pack` does not make such a node.
        KeyError: A tensor is missing.
        TypeError: The key of a dict is not hashable.
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
    raise CheckpointError("found an entry of another form in state.json; allowed: a key and a value")


def kind(value: object) -> str:
    """Shape and dtype of a tensor, or the name of a value's type."""
    return f"{list(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def restored(saved: object, loaded: object) -> object:
    """The saved state with its own dtypes, and each tensor on the device of the state that torch loaded.

    Raises:
        TypeError: `loaded` has another structure.
        KeyError: `loaded` lacks a key.
        ValueError: A sequence in `loaded` has another length.
    """
    match saved, loaded:
        case Tensor(), Tensor():
            return saved.to(loaded.device, copy=True)
        case dict(), Mapping():
            return {key: restored(value, loaded[key]) for key, value in saved.items()}
        case ((list() | tuple()), (list() | tuple())):
            return type(saved)(restored(each, target) for each, target in zip(saved, loaded, strict=True))
        case ((Tensor() | dict() | list() | tuple()), _):
            raise TypeError(f"found {kind(saved)}, but {kind(loaded)} is expected")
    return saved


def cpu_copy(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares no memory, because safetensors refuses tensors that share memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
