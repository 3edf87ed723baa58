"""Check and restore the state of an optimizer from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from minigpt.errors import CheckpointError
from minigpt.run.packing import is_number, kind, restored


def load(
    optimizer: torch.optim.Optimizer, saved: dict[str, object], path: Path, counted: Sequence[frozenset[str]] | None
) -> None:
    """Restore a saved state_dict bit for bit. Torch's own loading would cast it to the parameters' dtype.

    Args:
        optimizer: The optimizer whose state is restored.
        saved: The saved state_dict.
        path: The checkpoint's path, for messages.
        counted: For each parameter group, the names of the values that the optimizer counts itself. Only these are
            restored in the groups. None restores all values.

    Raises:
        CheckpointError: The state belongs to another optimizer.
    """
    built = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        _check_groups(saved, optimizer.state_dict()["param_groups"], counted)
        optimizer.load_state_dict(saved)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states = saved.get("state", {})
        assert isinstance(states, dict), "torch has checked this when loading"
        for index, state in states.items():
            key = parameters[index] if isinstance(index, int) else index
            optimizer.state[key] = restored(state, optimizer.state[key])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} holds the state of another optimizer: {reason}") from error
    if counted is not None:
        for group, fresh, kept in zip(optimizer.param_groups, built, counted, strict=True):
            for key in [key for key in group if key not in fresh and key not in kept and key != "params"]:
                del group[key]  # a setting that the experiment no longer has, such as a ramp
            group.update({key: value for key, value in fresh.items() if key not in kept})


def _check_groups(
    saved: dict[str, object], expected: list[dict[str, object]], counted: Sequence[frozenset[str]] | None
) -> None:
    groups = saved["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(expected):
        raise ValueError(f"{len(expected)} groups of parameters are expected")
    for number, (group, built) in enumerate(zip(groups, expected, strict=True)):
        for name, value in built.items():
            is_setting = counted is not None and name != "params" and name not in counted[number]
            saved_value = group.get(name) if name == "ramps" else group[name]
            if is_setting and (saved_value is None or value is None):
                continue  # the setting was changed, and its saved value is not used
            if not _may_become(value, saved_value):
                raise ValueError(f"{name} of group {number} is {saved_value!r}")


def _may_become(built: object, saved: object) -> bool:
    """Whether a group's value, as it is built, may have the kind of a saved one after some updates."""
    if kind(built) == kind(saved) or built is None:
        return True
    return is_number(built) and (is_number(saved) or isinstance(saved, Tensor))


def check(saved: dict[str, object], expected: Mapping[object, object], path: Path) -> None:
    """Check that a saved state has the tensors that the optimizer makes.

    Raises:
        CheckpointError: A tensor is missing, or has another shape or type.
    """
    state = saved.get("state")
    for index, parts in expected.items():
        own = state.get(index) if isinstance(state, dict) else None
        for name, wanted in parts.items() if isinstance(parts, dict) else ():
            value = own.get(name) if isinstance(own, dict) else None
            if kind(value) != kind(wanted) and not (is_number(value) and is_number(wanted)):
                difference = f"{name} of {index} is {kind(value)}, but {kind(wanted)} is expected"
                raise CheckpointError(f"{path} holds the state of another optimizer: {difference}")


def continues(saved: dict[str, object], sizes: Sequence[int], expected: Mapping[object, object]) -> bool:
    """Whether an optimizer whose settings were changed can continue from a saved state.

    Args:
        saved: The saved state_dict, from before the change.
        sizes: Number of parameters in each group of the changed optimizer.
        expected: The `state` that the changed optimizer makes.
    """
    groups, state = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict) or not all(isinstance(group, dict) for group in groups):
        return False
    same_groups = [kind(group.get("params")) == "list" and len(group["params"]) for group in groups] == list(sizes)
    return same_groups and all(index in expected and _has_form_of(parts, expected[index]) for index, parts in state.items())


def _has_form_of(saved: object, expected: object) -> bool:
    """Whether a saved state has the same structure as the expected one, with the same tensor shapes and types."""
    if isinstance(saved, dict) and isinstance(expected, dict):
        return saved.keys() == expected.keys() and all(_has_form_of(saved[key], expected[key]) for key in saved)
    if isinstance(saved, list | tuple) and isinstance(expected, list | tuple):
        return len(saved) == len(expected) and all(map(_has_form_of, saved, expected))
    return kind(saved) == kind(expected) or (is_number(saved) and is_number(expected))
