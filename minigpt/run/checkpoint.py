"""Checkpoints: weights and training state as safetensors and JSON. No pickle.

A checkpoint is a folder `step-00000250/` (`step-00000250.1/` if that step is saved once more: none is ever overwritten) with

    model.safetensors    weights
    optimizer.safetensors, state.json    the optimizer's state_dict, tensors apart from the rest, and the progress
    manifest.json        size and SHA-256 of the other three

It is written under a temporary name, synced, then renamed. `best` and `last` are one-line files that name a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minigpt.errors import CheckpointError
from minigpt.run.durable import sync_file, sync_folder, write_json, write_text

_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


@dataclass(frozen=True)
class Progress:
    """How far training has come; together with the weights and the optimizer, all that resuming needs.

    Attributes:
        step: Updates done. Data order, dropout and samples follow from it and the seed.
        tokens: Tokens seen.
        seconds: Training time, evaluation and saving left out.
        wall: Time since the run began, all sittings added up.
        best_step: Step of the lowest validation loss so far.
        best_val_loss: That loss, in nats a token.
        metrics_bytes: Length of metrics.jsonl that belongs to these steps.
        samples_bytes: Length of samples.txt that belongs to these steps.
        pending: The record of the last update where it is not in metrics.jsonl yet (stopped before its evaluation).
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    wall: float = 0.0
    best_step: int | None = None
    best_val_loss: float | None = None
    metrics_bytes: int = 0
    samples_bytes: int = 0
    pending: dict[str, float] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole.

    Attributes:
        path: Its folder.
        weights: The model's state_dict.
        optimizer: The optimizer's state_dict.
        progress: How far training had come.
        notes: What the user should know, such as that a damaged one was passed over.
    """

    path: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    progress: Progress
    notes: tuple[str, ...] = ()

    def load_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the state back into an optimizer, to the bit: torch's own loading casts it to the parameters' dtype.

        Raises:
            CheckpointError: It is another optimizer's.
        """
        try:
            optimizer.load_state_dict(self.optimizer)
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{self.path} holds the state of another optimizer: {error}") from error
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, saved in self.optimizer.get("state", {}).items():
            key = parameters[index] if isinstance(index, int) else index
            optimizer.state[key] = _restored(saved, optimizer.state[key])

    def load_weights(self, model: nn.Module) -> None:
        """Put the weights into a model.

        Raises:
            CheckpointError: They are another model's.
        """
        try:
            model.load_state_dict(self.weights, strict=True)
        except RuntimeError as error:
            reasons = " ".join(str(error).split())
            raise CheckpointError(f"{self.path} holds the weights of another model: {reasons}") from error


def save(
    root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, *, best: bool, spare: int = 1
) -> Path:
    """Write a checkpoint, point `last` (and `best`) at it, and remove the ones that nothing points at.

    Args:
        root: The run's `checkpoints` folder.
        model: Its weights are saved.
        optimizer: Its state is saved.
        progress: Names the checkpoint by its step.
        best: Whether this is the lowest validation loss so far.
        spare: How many older ones to keep beside `best` and `last`, should a disk damage those.
    """
    root.mkdir(parents=True, exist_ok=True)
    stem = f"step-{progress.step:08d}"
    same = [_order(path)[1] for path in _checkpoints(root) if _order(path)[0] == progress.step]
    target = root / (f"{stem}.{max(same) + 1}" if same else stem)
    temporary = root / f".{target.name}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors: dict[str, Tensor] = {}
    packed = pack(optimizer.state_dict(), tensors)
    weights = {name: _alone(tensor) for name, tensor in model.state_dict().items()}
    save_file(weights, temporary / _FILES[0])
    save_file(tensors, temporary / _FILES[1])
    write_json(temporary / _FILES[2], {"progress": asdict(progress), "optimizer": packed})
    write_json(temporary / "manifest.json", {name: _digest(temporary / name) for name in _FILES})
    for name in _FILES[:2]:
        sync_file(temporary / name)
    sync_folder(temporary)
    os.replace(temporary, target)
    sync_folder(root)
    if best:  # before `last`: a run that resumes from there must not miss its best
        write_text(root / "best", target.name + "\n")
    write_text(root / "last", target.name + "\n")
    _prune(root, target, spare)
    return target


def _restored(saved: Any, loaded: Any) -> Any:
    """`saved` with its own dtypes, each tensor on the device where torch put it when it loaded the state."""
    if isinstance(saved, Tensor):
        return saved.to(loaded.device, copy=True)
    if isinstance(saved, dict):
        return {key: _restored(value, loaded[key]) for key, value in saved.items()}
    if isinstance(saved, list | tuple):
        return type(saved)(_restored(value, there) for value, there in zip(saved, loaded, strict=True))
    return saved


def _alone(tensor: Tensor) -> Tensor:
    """A copy on the CPU that shares memory with no other: safetensors saves no tensors that do."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _prune(root: Path, saved: Path, spare: int) -> None:
    """Keep what is pointed at, and of what was saved before it the newest; later steps are of a history that was left."""
    kept = {_pointed_at(root, name) for name in ("best", "last")}
    others = [path for path in _checkpoints(root) if path.name not in kept]
    before = [path for path in others if _order(path) < _order(saved)]
    later = [path for path in others if _order(path) > _order(saved)]
    for path in [*before[spare:], *later, *root.glob(".step-*.new")]:
        shutil.rmtree(path)


def _order(path: Path) -> tuple[int, int]:
    name = _NAME.fullmatch(path.name)
    assert name is not None
    return int(name[1]), int(name[2] or 0)


def _checkpoints(root: Path) -> list[Path]:
    """All there are, the newest first."""
    found = [path for path in root.iterdir() if _NAME.fullmatch(path.name)] if root.is_dir() else []
    return sorted(found, key=_order, reverse=True)


def load(root: Path, which: str = "last") -> Checkpoint | None:
    """Read a checkpoint, checking every byte; None if there is none yet.

    If `last` is damaged, the newest whole one before it is taken, and `notes` says so.

    Args:
        root: The run's `checkpoints` folder.
        which: `last`, `best`, or a step number.

    Raises:
        CheckpointError: What was asked for is not there, or all there is is damaged.
    """
    there = _checkpoints(root)
    if re.fullmatch("[0-9]+", which):
        name = next((path.name for path in there if _order(path)[0] == int(which)), None)
        if name is None:
            steps = ", ".join(map(str, available(root))) or "none"
            raise CheckpointError(f"{root} has no checkpoint of step {which}; there are: {steps}")
    else:
        name = _pointed_at(root, which)
    if not there:
        return None
    notes: list[str] = []
    if which == "best" and name is None:
        name = _pointed_at(root, "last")
        notes.append("no evaluation has been made yet: this is the last checkpoint")
    candidates = [name] if name else []
    if which == "last":
        candidates += [path.name for path in there if path.name not in candidates]
    for candidate in candidates:
        try:
            found = _read(root / candidate)
        except CheckpointError as error:
            notes.append(f"{error}; passed over")
            continue
        return Checkpoint(found.path, found.weights, found.optimizer, found.progress, tuple(notes))
    reasons = "\n".join(notes) or f'{root} names no "{which}" checkpoint'
    raise CheckpointError(reasons)


def available(root: Path) -> list[int]:
    """Steps of the checkpoints that are there."""
    return sorted({_order(path)[0] for path in _checkpoints(root)})


def _pointed_at(root: Path, pointer: str) -> str | None:
    try:
        name = (root / pointer).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return name if _NAME.fullmatch(name) else None


def _read(path: Path) -> Checkpoint:
    try:
        manifest = json.loads((path / "manifest.json").read_text("utf-8"))
        for name in _FILES:
            if manifest[name] != _digest(path / name):
                raise CheckpointError(f"{path / name} is damaged: it is not what the manifest says")
        weights, tensors = load_file(path / _FILES[0]), load_file(path / _FILES[1])
        state = json.loads((path / _FILES[2]).read_text("utf-8"))
        return Checkpoint(path, weights, unpack(state["optimizer"], tensors), Progress(**state["progress"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


# ------------------------------------------------------------------------- a state_dict as JSON with its tensors apart


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A tree of dicts, lists, tuples, tensors and plain values as JSON; tensors go to `tensors` and leave their key.

    Raises:
        CheckpointError: Something in the tree is none of these.
    """
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = _alone(value)
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
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [unpack(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "value":
        return content
    raise CheckpointError(f'unknown kind "{kind}" in state.json')
