"""Checkpoints: weights and training state as safetensors and JSON. No pickle.

A checkpoint is a folder `step-00000250/` (`step-00000250.1/` if that step is saved again: none is ever overwritten) with

    model.safetensors        weights
    optimizer.safetensors    tensors of the optimizer's state_dict
    state.json               the rest of the optimizer's state_dict, and the progress
    manifest.json            size and SHA-256 of the other three files

It is written under a temporary name, synced, read again and compared, then renamed. `best` and `last` are one-line files
that name a folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor, nn

from minigpt.errors import CheckpointError, MinigptError, UnreadableError, WriteError
from minigpt.run import optimizer_state
from minigpt.run.packing import cpu_copy, pack, unpack
from minigpt.run.progress import Progress, read_progress
from minigpt.system.files import json_bytes, read_bytes, read_object, sync_folder, write_new, write_text

_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
SPARE = 1
KEPT = 3 + SPARE
"""Most checkpoints on the disk at once: the best, the last, the spare ones, and the one being written."""
_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is intact.

    Attributes:
        path: Its folder.
        weights: The model's state_dict.
        optimizer: The optimizer's state_dict.
        progress: The progress of training when it was saved.
        notes: Messages for the user, for example that a damaged checkpoint was skipped.
    """

    path: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, object]
    progress: Progress
    notes: tuple[str, ...] = ()

    def load_optimizer(self, optimizer: torch.optim.Optimizer, counted: Sequence[frozenset[str]] | None = None) -> None:
        """Restore the state of an optimizer, bit for bit.

        Args:
            optimizer: An optimizer of the same kind; its hyperparameters may differ.
            counted: For each parameter group, the names of the values that the optimizer counts itself. Only these are
                restored in the groups; other values stay as they were built. None restores all of them.

        Raises:
            CheckpointError: The state belongs to another optimizer.
        """
        optimizer_state.load(optimizer, self.optimizer, self.path, counted)

    def check_optimizer(self, expected: Mapping[object, object]) -> None:
        """Check that the tensors have the shapes and types of the optimizer, before a kernel relies on it.

        Args:
            expected: The `state` of the same optimizer's state_dict after at least two updates. The saved state may have
                entries that `expected` lacks, because a state may grow.

        Raises:
            CheckpointError: A shape or type differs.
        """
        if self.progress.step - self.progress.skipped >= _FULL_STATE_AFTER:
            optimizer_state.check(self.optimizer, expected, self.path)

    def load_weights(self, model: nn.Module) -> None:
        """Load the weights into a model.

        Raises:
            CheckpointError: The weights belong to another model.
        """
        try:
            model.load_state_dict(self.weights, strict=True)
        except RuntimeError as error:
            reasons = " ".join(str(error).split())
            raise CheckpointError(f"{self.path} holds the weights of another model: {reasons}") from error


def save(
    root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, *, best: bool, spare: int = SPARE
) -> Path:
    """Write a checkpoint, point `last` (and `best`) at it, and remove old checkpoints.

    Args:
        root: The run's `checkpoints` folder.
        model: The model whose weights are saved.
        optimizer: The optimizer whose state is saved.
        progress: The progress of training; its step names the checkpoint.
        best: Whether this is the lowest validation loss so far.
        spare: How many older checkpoints to keep beside `best` and `last`, in case the disk damages those.

    Raises:
        WriteError: The disk is full or failing, or the run folder is missing. The existing checkpoints stay.
    """
    try:
        root.mkdir(exist_ok=True)  # without its parent, the run's folder, which must exist
        target = _write(root, progress.step, _contents(model, optimizer, progress))
        if best:  # before `last`, because a run that resumes from `last` needs its best
            write_text(root / "best", target.name + "\n")
        write_text(root / "last", target.name + "\n")
        _prune(root, target, spare)
    except OSError as error:
        raise WriteError(f"the checkpoint of step {progress.step} in {root} cannot be written: {error.strerror}") from error
    return target


def _contents(model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the files, one after another, so that only one is in memory."""
    yield _FILES[0], serialized({name: cpu_copy(tensor) for name, tensor in model.state_dict().items()})
    tensors: dict[str, Tensor] = {}
    packed = pack(optimizer.state_dict(), tensors)
    yield _FILES[1], serialized(tensors)
    yield _FILES[2], json_bytes({"progress": progress.to_json(), "optimizer": packed})


def _write(root: Path, step: int, contents: Iterable[tuple[str, bytes]]) -> Path:
    """A new folder with these files and their manifest. Everything is synced before the folder gets its name."""
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
            del content  # frees the memory before the next content is made
        write_new(temporary / "manifest.json", json_bytes(manifest))
        sync_folder(temporary)
        for name, expected in manifest.items():
            if _digest_of(temporary / name) != expected:
                raise WriteError(f"{target / name} reads back differently than it was written: the disk is failing")
        os.replace(temporary, target)
    except (OSError, WriteError):
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(root)
    return target


def _prune(root: Path, saved: Path, spare: int) -> None:
    """Keep `best`, `last` and the newest `spare` ones before them. Later steps belong to an abandoned branch."""
    kept = {_pointed_at(root, name) for name in ("best", "last")}
    others = [path for path in _checkpoints(root) if path.name not in kept]
    before = [path for path in others if _order(path) < _order(saved)]
    later = [path for path in others if _order(path) > _order(saved)]
    for path in [*before[spare:], *later]:
        path.rename(root / f".{path.name}.old")  # in one step, so that no partly removed checkpoint keeps its name
    for path in [*root.glob(".step-*.old"), *root.glob(".step-*.new")]:
        shutil.rmtree(path)


def _order(path: Path) -> tuple[int, int]:
    name = _NAME.fullmatch(path.name)
    assert name is not None
    return int(name[1]), int(name[2] or 0)


def _checkpoints(root: Path) -> list[Path]:
    """The folders of all checkpoints, the newest first."""
    try:
        folders = [path for path in root.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:  # the folder does not exist yet
        folders = []
    return sorted(folders, key=_order, reverse=True)


def load(root: Path, which: str = "last", model: nn.Module | None = None) -> Checkpoint | None:
    """Read a checkpoint and check every byte; None if there is none yet.

    If `last` is damaged, the newest intact checkpoint before it is read, and `notes` reports it. A run that is still
    training may remove a checkpoint during reading. If the list of checkpoints has changed, reading is tried again.

    Args:
        root: The run's `checkpoints` folder.
        which: `last`, `best`, or a step number.
        model: The model that the weights are for. Weights that do not fit are refused from the file's header, before
            memory is allocated.

    Raises:
        CheckpointError: The requested checkpoint does not exist, or all checkpoints are damaged.
    """
    for _ in range(_ATTEMPTS - 1):
        before = _listing(root)
        try:
            checkpoint = _load(root, which, model)
        except CheckpointError:
            if _listing(root) == before:
                raise
        else:
            if checkpoint is None or not checkpoint.notes or _listing(root) == before:
                return checkpoint
    return _load(root, which, model)


_ATTEMPTS = 5  # a run that saves during each of five attempts saves faster than it can be read


def _listing(root: Path) -> tuple[str | None, ...]:
    return (_pointed_at(root, "best"), _pointed_at(root, "last"), *(path.name for path in _checkpoints(root)))


def _load(root: Path, which: str, model: nn.Module | None) -> Checkpoint | None:
    folders = _checkpoints(root)
    if re.fullmatch("[0-9]{1,18}", which):
        name = next((path.name for path in folders if _order(path)[0] == int(which)), None)
        if name is None:
            steps = ", ".join(map(str, available(root))) or "none"
            raise CheckpointError(f"{root} has no checkpoint of step {which}; available: {steps}")
    else:
        name = _pointed_at(root, which)
    if not folders:
        return None
    notes: list[str] = []
    if which == "best" and name is None:
        which, name = "last", _pointed_at(root, "last")
        notes.append("no evaluation has been made yet: this is the last checkpoint")
    candidates = [name] if name else []
    if which == "last":
        candidates += [path.name for path in folders if path.name not in candidates]
    for candidate in candidates:
        try:
            intact = _read(root / candidate, model)
        except CheckpointError as error:
            notes.append(f"{error}; skipped")
            continue
        return replace(intact, notes=tuple(notes))
    reasons = "\n".join(notes) or f'{root} names no "{which}" checkpoint'
    raise CheckpointError(reasons)


def available(root: Path) -> list[int]:
    """The steps of all checkpoints, in ascending order."""
    return sorted({_order(path)[0] for path in _checkpoints(root)})


def whole(root: Path) -> list[int]:
    """The steps of the intact checkpoints, the newest first. Files are hashed, but not loaded."""
    steps = []
    for path in _checkpoints(root):
        try:
            manifest = read_object(path / "manifest.json")
            is_whole = all(manifest[name] == _digest_of(path / name) for name in _FILES)
        except (UnreadableError, OSError, KeyError):
            continue
        if is_whole:
            steps.append(_order(path)[0])
    return steps


def last_step(root: Path) -> int | None:
    """The step of the checkpoint that `last` names; None if there is none. The checkpoint is not read."""
    name = _pointed_at(root, "last")
    return _order(root / name)[0] if name else None


def point_at(root: Path, checkpoint: Path) -> None:
    """Let `last` name the checkpoint that training continues from, in case a damaged one was skipped.

    Raises:
        WriteError: The disk is full or failing.
    """
    if _pointed_at(root, "last") != checkpoint.name:
        write_text(root / "last", checkpoint.name + "\n")


def recorded(root: Path) -> Progress:
    """The progress in the last intact checkpoint, without reading its weights; without one, that of a new run."""
    named = [name for name in (_pointed_at(root, "last"),) if name]
    for name in [*named, *(path.name for path in _checkpoints(root) if path.name not in named)]:
        state = root / name / _FILES[2]
        try:
            if read_object(root / name / "manifest.json")[_FILES[2]] == _digest_of(state):
                return read_progress(read_object(state)["progress"])
        except (MinigptError, OSError, ValueError, KeyError, TypeError):
            continue  # the damage is reported when the weights are loaded
    return Progress()


def best_folder(root: Path) -> Path | None:
    """The folder of the checkpoint with the lowest validation loss; None if there is none."""
    name = _pointed_at(root, "best")
    return root / name if name else None


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
                raise CheckpointError(f"{path / name} is damaged: its length differs from the manifest")
        if model is not None:
            _check_header(path, model)
        for name in _FILES:
            if manifest[name] != _digest_of(path / name):
                raise CheckpointError(f"{path / name} is damaged: its SHA-256 differs from the manifest")
        weights, tensors = load_file(path / _FILES[0]), load_file(path / _FILES[1])
        state = read_object(path / _FILES[2])
        progress = read_progress(state["progress"])
        optimizer = unpack(state["optimizer"], tensors)
        if not isinstance(optimizer, dict):
            raise CheckpointError(f"{path / _FILES[2]} is damaged: the optimizer's state is not an object")
    except CheckpointError:
        raise
    except MinigptError as error:
        raise CheckpointError(str(error)) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if model is not None:
        for name, _ in model.named_parameters():
            if name in weights and not torch.isfinite(weights[name]).all():
                raise CheckpointError(f"{path} is unusable: the weight {name} is not finite")
    return Checkpoint(path, weights, optimizer, progress)


def _check_header(path: Path, model: nn.Module) -> None:
    """Check that the file's tensors have the model's names, shapes and types, without reading their values.

    Raises:
        CheckpointError: A name, shape or type differs.
    """
    expected = model.state_dict()
    with safe_open(path / _FILES[0], "pt") as file:
        names = set(file.keys())
        lines = [f"it lacks {name}" for name in expected if name not in names]
        lines += [f"{name} is unknown" for name in sorted(names) if name not in expected]
        for name in sorted(names & expected.keys()):
            saved, wanted = file.get_slice(name), expected[name]
            shape, dtype = list(saved.get_shape()), _DTYPES.get(saved.get_dtype(), saved.get_dtype())
            if shape != list(wanted.shape) or dtype != wanted.dtype:
                lines.append(
                    f"size mismatch for {name}: {shape} {dtype}, but {list(wanted.shape)} {wanted.dtype} is expected"
                )
    if lines:
        more = f"; and {len(lines) - _MAX_LINES} more" if len(lines) > _MAX_LINES else ""
        raise CheckpointError(f"{path} holds the weights of another model: {'; '.join(lines[:_MAX_LINES])}{more}")


_MAX_POINTER, _MAX_LINES = 100, 3
_FULL_STATE_AFTER = 2  # updates, after which an optimizer has all entries of its state
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
