"""Checkpoints: weights and training state as safetensors and JSON. No pickle.

A checkpoint is a folder `step-00000250/` (`step-00000250.1/` if that step is saved once more: none is ever overwritten) with

    model.safetensors    weights
    optimizer.safetensors, state.json    the optimizer's state_dict, tensors apart from the rest, and the progress
    manifest.json        size and SHA-256 of the other three

It is written under a temporary name, synced, read again and compared, then renamed. `best` and `last` are one-line files
that name a folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor, nn

from minigpt.errors import CheckpointError, MinigptError, UnreadableError, WriteError
from minigpt.run import optimizer_state
from minigpt.run.packing import alone, pack, unpack
from minigpt.run.progress import Progress, read_progress
from minigpt.system.files import json_bytes, read_bytes, read_object, sync_folder, write_new, write_text

_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
SPARE = 1
KEPT = 3 + SPARE
"""Checkpoints that are on the disk at once: the best, the last, the spare ones, and the one being written."""
_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


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
    optimizer: dict[str, object]
    progress: Progress
    notes: tuple[str, ...] = ()

    def load_optimizer(self, optimizer: torch.optim.Optimizer, counted: Sequence[frozenset[str]] | None = None) -> None:
        """Put the state back into an optimizer, to the bit.

        Args:
            optimizer: The same one, or the same with other hyperparameters.
            counted: What it counts itself in each of its groups: only that is put back there, and what else the groups
                hold stays as it was built. None puts back all of it.

        Raises:
            CheckpointError: It is another optimizer's.
        """
        optimizer_state.load(optimizer, self.optimizer, self.path, counted)

    def check_optimizer(self, expected: Mapping[object, object]) -> None:
        """Whether tensors have the shapes and types that the optimizer gives them, before a kernel relies on it.

        Args:
            expected: The `state` of the same optimizer's state_dict after two updates or more. What only this has is left
                alone, for a state may grow.

        Raises:
            CheckpointError: They have not.
        """
        if self.progress.step - self.progress.skipped >= _UPDATES_TO_KNOW:
            optimizer_state.check(self.optimizer, expected, self.path)

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
    root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, *, best: bool, spare: int = SPARE
) -> Path:
    """Write a checkpoint, point `last` (and `best`) at it, and remove the ones that nothing points at.

    Args:
        root: The run's `checkpoints` folder.
        model: Its weights are saved.
        optimizer: Its state is saved.
        progress: Names the checkpoint by its step.
        best: Whether this is the lowest validation loss so far.
        spare: How many older ones to keep beside `best` and `last`, should a disk damage those.

    Raises:
        WriteError: The disk is full or failing, or the run folder is gone; the checkpoints that were there are there still.
    """
    try:
        root.mkdir(exist_ok=True)  # its parent is the run's folder, which is never made anew
        target = _write(root, progress.step, _contents(model, optimizer, progress))
        if best:  # before `last`: a run that resumes from there must not miss its best
            write_text(root / "best", target.name + "\n")
        write_text(root / "last", target.name + "\n")
        _prune(root, target, spare)
    except OSError as error:
        raise WriteError(f"the checkpoint of step {progress.step} in {root} cannot be written: {error.strerror}") from error
    return target


def _contents(model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> Iterator[tuple[str, bytes]]:
    """The files, one after another, so that only one is in memory."""
    yield _FILES[0], serialized({name: alone(tensor) for name, tensor in model.state_dict().items()})
    tensors: dict[str, Tensor] = {}
    packed = pack(optimizer.state_dict(), tensors)
    yield _FILES[1], serialized(tensors)
    yield _FILES[2], json_bytes({"progress": progress.to_json(), "optimizer": packed})


def _write(root: Path, step: int, contents: Iterable[tuple[str, bytes]]) -> Path:
    """A new folder with these files and their manifest, all of it on the disk before it has its name."""
    stem = f"step-{step:08d}"
    same = [_order(path)[1] for path in _checkpoints(root) if _order(path)[0] == step]
    target = root / (f"{stem}.{max(same) + 1}" if same else stem)
    temporary = root / f".{target.name}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        manifest = {}
        for name, content in contents:
            manifest[name] = _digest(content)
            write_new(temporary / name, content)
            del content  # before the next one is made
        write_new(temporary / "manifest.json", json_bytes(manifest))
        sync_folder(temporary)
        for name, expected in manifest.items():
            if _digest_of(temporary / name) != expected:
                raise WriteError(f"{target / name} is not on the disk as it was written: the disk is failing")
        os.replace(temporary, target)
    except (OSError, WriteError):
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(root)
    return target


def _prune(root: Path, saved: Path, spare: int) -> None:
    """Keep what is pointed at, and of what was saved before it the newest; later steps are of a history that was left."""
    kept = {_pointed_at(root, name) for name in ("best", "last")}
    others = [path for path in _checkpoints(root) if path.name not in kept]
    before = [path for path in others if _order(path) < _order(saved)]
    later = [path for path in others if _order(path) > _order(saved)]
    for path in [*before[spare:], *later]:
        path.rename(root / f".{path.name}.old")  # at once: half a checkpoint must not stand where a whole one did
    for path in [*root.glob(".step-*.old"), *root.glob(".step-*.new")]:
        shutil.rmtree(path)


def _order(path: Path) -> tuple[int, int]:
    name = _NAME.fullmatch(path.name)
    assert name is not None
    return int(name[1]), int(name[2] or 0)


def _checkpoints(root: Path) -> list[Path]:
    """All there are, the newest first."""
    try:
        found = [path for path in root.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:  # none yet, or no folder
        found = []
    return sorted(found, key=_order, reverse=True)


def load(root: Path, which: str = "last", model: nn.Module | None = None) -> Checkpoint | None:
    """Read a checkpoint, checking every byte; None if there is none yet.

    If `last` is damaged, the newest whole one before it is taken, and `notes` says so. A run that saves meanwhile may remove
    what is being read: where the checkpoints have changed since, they are looked at again.

    Args:
        root: The run's `checkpoints` folder.
        which: `last`, `best`, or a step number.
        model: The one that it is for: what does not fit it is refused from the header, before memory is asked for.

    Raises:
        CheckpointError: What was asked for is not there, or all there is is damaged.
    """
    for _ in range(_LOOKS - 1):
        before = _listing(root)
        try:
            found = _load(root, which, model)
        except CheckpointError:
            if _listing(root) == before:
                raise
        else:
            if found is None or not found.notes or _listing(root) == before:
                return found
    return _load(root, which, model)


_LOOKS = 5  # a run that saves more often than it can be read five times over is not waited for


def _listing(root: Path) -> tuple[str | None, ...]:
    return (_pointed_at(root, "best"), _pointed_at(root, "last"), *(path.name for path in _checkpoints(root)))


def _load(root: Path, which: str, model: nn.Module | None) -> Checkpoint | None:
    there = _checkpoints(root)
    if re.fullmatch("[0-9]{1,18}", which):
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
        which, name = "last", _pointed_at(root, "last")
        notes.append("no evaluation has been made yet: this is the last checkpoint")
    candidates = [name] if name else []
    if which == "last":
        candidates += [path.name for path in there if path.name not in candidates]
    for candidate in candidates:
        try:
            found = _read(root / candidate, model)
        except CheckpointError as error:
            notes.append(f"{error}; passed over")
            continue
        return Checkpoint(found.path, found.weights, found.optimizer, found.progress, tuple(notes))
    reasons = "\n".join(notes) or f'{root} names no "{which}" checkpoint'
    raise CheckpointError(reasons)


def available(root: Path) -> list[int]:
    """Steps of the checkpoints that are there."""
    return sorted({_order(path)[0] for path in _checkpoints(root)})


def whole(root: Path) -> list[int]:
    """Steps of the checkpoints that are as they were written, the newest first; weights are hashed, and not loaded."""
    found = []
    for path in _checkpoints(root):
        try:
            manifest = read_object(path / "manifest.json")
            is_whole = all(manifest[name] == _digest_of(path / name) for name in _FILES)
        except (UnreadableError, OSError, KeyError):
            continue
        if is_whole:
            found.append(_order(path)[0])
    return found


def last_step(root: Path) -> int | None:
    """The step of the checkpoint that `last` names; None if there is none. It is not read."""
    name = _pointed_at(root, "last")
    return _order(root / name)[0] if name else None


def point_at(root: Path, checkpoint: Path) -> None:
    """Let `last` name the checkpoint that training continues from, where a damaged one was passed over.

    Raises:
        WriteError: The disk is full or failing.
    """
    if _pointed_at(root, "last") != checkpoint.name:
        write_text(root / "last", checkpoint.name + "\n")


def recorded(root: Path) -> Progress:
    """What the last whole checkpoint recorded of the run, its weights unread; a run without one is at its beginning."""
    named = [name for name in (_pointed_at(root, "last"),) if name]
    for name in [*named, *(path.name for path in _checkpoints(root) if path.name not in named)]:
        state = root / name / _FILES[2]
        try:
            if read_object(root / name / "manifest.json")[_FILES[2]] == _digest_of(state):
                return read_progress(read_object(state)["progress"])
        except (MinigptError, OSError, ValueError, KeyError, TypeError):
            continue  # whoever wants its weights says what is wrong with it
    return Progress()


def _pointed_at(root: Path, pointer: str) -> str | None:
    try:
        name = read_bytes(root / pointer, _MAX_POINTER).decode("utf-8").strip()
    except (UnreadableError, UnicodeDecodeError):
        return None
    return name if _NAME.fullmatch(name) else None


def _read(path: Path, model: nn.Module | None) -> Checkpoint:
    try:
        manifest = read_object(path / "manifest.json")
        for name in _FILES:
            if manifest[name]["bytes"] != (path / name).stat().st_size:
                raise CheckpointError(f"{path / name} is damaged: it is not as long as the manifest says")
        if model is not None:
            _check_header(path, model)
        for name in _FILES:
            if manifest[name] != _digest_of(path / name):
                raise CheckpointError(f"{path / name} is damaged: it is not what the manifest says")
        weights, tensors = load_file(path / _FILES[0]), load_file(path / _FILES[1])
        state = read_object(path / _FILES[2])
        progress = read_progress(state["progress"])
        optimizer = unpack(state["optimizer"], tensors)
        if not isinstance(optimizer, dict):
            raise CheckpointError(f"{path / _FILES[2]} is damaged: the optimizer's state is no object")
    except CheckpointError:
        raise
    except MinigptError as error:
        raise CheckpointError(str(error)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if model is not None:
        for name, _ in model.named_parameters():
            if name in weights and not torch.isfinite(weights[name]).all():
                raise CheckpointError(f"{path} is of no use: the weight {name} is not finite")
    return Checkpoint(path, weights, optimizer, progress)


def _check_header(path: Path, model: nn.Module) -> None:
    """Whether the file's tensors are those of the model, by names, shapes and types; their values are not read.

    Raises:
        CheckpointError: They are not.
    """
    expected = model.state_dict()
    with safe_open(path / _FILES[0], "pt") as file:
        names = set(file.keys())
        lines = [f"it lacks {name}" for name in expected if name not in names]
        lines += [f"{name} is unknown" for name in sorted(names) if name not in expected]
        for name in sorted(names & expected.keys()):
            found = file.get_slice(name)
            shape, dtype = list(found.get_shape()), _DTYPES.get(found.get_dtype(), found.get_dtype())
            there = expected[name]
            if shape != list(there.shape) or dtype != there.dtype:
                said = f"{shape} {dtype}, where {list(there.shape)} {there.dtype} is expected"
                lines.append(f"size mismatch for {name}: {said}")
    if lines:
        more = f"; and {len(lines) - _SAID} more" if len(lines) > _SAID else ""
        raise CheckpointError(f"{path} holds the weights of another model: {'; '.join(lines[:_SAID])}{more}")


_MAX_POINTER, _SAID = 100, 3
_UPDATES_TO_KNOW = 2  # after which an optimizer has all that it remembers
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _digest(content: bytes) -> dict[str, int | str]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _digest_of(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
