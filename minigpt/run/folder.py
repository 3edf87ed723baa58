"""The run folder: its files, its lock, and how a model is opened from it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minigpt import plugins
from minigpt.contracts import Tokenizer
from minigpt.data import restore_tokenizer
from minigpt.errors import RunError
from minigpt.experiment import Experiment
from minigpt.model import GPT, build_model
from minigpt.reading import load_experiment
from minigpt.run import checkpoint
from minigpt.run.durable import write_json


@dataclass(frozen=True)
class RunFolder:
    """`runs/<name>/seed-<n>/`: everything there is to know of one training run.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def of(cls, experiment: Experiment, root: str | Path = "runs") -> RunFolder:
        """Where an experiment's run belongs."""
        return cls(Path(root) / experiment.name / f"seed-{experiment.seed}")

    @property
    def metrics(self) -> Path:
        """One JSON object a line, a line an update: the truth that everything else is drawn from."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """Text drawn at each evaluation."""
        return self.path / "samples.txt"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints; see checkpoint.py."""
        return self.path / "checkpoints"

    def begin(self, experiment: Experiment, tokenizer: Tokenizer | None, provenance: dict[str, Any]) -> None:
        """Write what a run starts from: resolved experiment, plugin copies, fitted tokenizer, provenance."""
        document = experiment.to_json()
        document["plugins"] = self._copy_plugins(experiment.plugins)
        if tokenizer is not None:
            write_json(self.path / "tokenizer.json", tokenizer.to_json())
        write_json(self.path / "provenance.json", provenance)
        write_json(self.path / "experiment.json", document)  # last: a folder with this file is a run

    def _copy_plugins(self, files: Sequence[str]) -> list[str]:
        names = [Path(file).name for file in files]
        for name in names:
            if names.count(name) > 1:
                raise RunError(f"two plugins are named {name}; rename one of them")
        shutil.rmtree(self.path / "plugins", ignore_errors=True)  # of a beginning that was cut short
        copies = []
        for file in map(Path, files):
            plugins.check_unchanged(file)
            target = self.path / "plugins" / file.name
            target.parent.mkdir(exist_ok=True)
            if file.is_dir():
                shutil.copytree(file, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(file, target)
            copies.append(f"plugins/{file.name}")
        return copies

    def set_aside(self) -> Path | None:
        """Rename the folder, if there is one, so that a run can begin in its place; returns its new path."""
        if not self.path.exists():
            return None
        with self.locked():
            (self.path / ".owner").unlink(missing_ok=True)
            number = next(n for n in itertools.count(1) if not self._aside(n).exists())
            self.path.rename(self._aside(number))
        return self._aside(number)

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.old-{number}")

    def exists(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / "experiment.json").is_file()

    def experiment(self, *, allow_plugins: bool = True) -> Experiment:
        """The run's resolved experiment; loads the copies of its plugins.

        Raises:
            RunError: There is no run here.
        """
        if not self.exists():
            reason = "it has no experiment.json" if self.path.exists() else "there is no such folder"
            raise RunError(f"{self.path} is not a run folder: {reason}{_near(self.path)}")
        return load_experiment(self.path / "experiment.json", allow_plugins=allow_plugins)

    def provenance(self) -> dict[str, Any]:
        """What was recorded when the run began.

        Raises:
            RunError: It cannot be read, or is not all there.
        """
        recorded = self._json("provenance.json")
        missing = {"versions", "machine", "precision", "data", "core", "components"} - set(recorded)
        if missing:
            raise RunError(f"{self.path / 'provenance.json'} is damaged: it lacks {', '.join(sorted(missing))}")
        return recorded

    def learned(self) -> dict[str, Any] | None:
        """What the tokenizer learned; None for a synthetic task."""
        return self._json("tokenizer.json") if (self.path / "tokenizer.json").is_file() else None

    def rows(self) -> list[dict[str, Any]]:
        """All metrics, in order; a torn last line (the machine went down) is left out."""
        if not self.metrics.is_file():
            return []
        lines = self.metrics.read_text("utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _json(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise RunError(f"{self.path / name} is damaged: found {type(value).__name__}; allowed: an object")
        return value

    def is_finished(self) -> bool:
        """Whether the last update is done, measured and recorded."""
        if not self.exists():
            return False
        rows, last = self.rows(), self._json("experiment.json")["training"]["max_iters"]
        return bool(rows) and rows[-1]["step"] >= last and "val_loss" in rows[-1]

    def is_in_use(self) -> bool:
        """Whether a process holds the folder now."""
        if not (self.path / ".lock").exists():
            return False
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return True
        lock.release()
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other processes. The system frees the lock of a process that died.

        Raises:
            RunError: Another process holds it; the message names it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        owner = self.path / ".owner"
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            holder = owner.read_text("utf-8").strip() if owner.is_file() else "unknown"
            raise RunError(f"{self.path} is in use by process {holder}; wait for it, or stop it") from error
        try:
            owner.write_text(f"{os.getpid()}\n", encoding="utf-8")
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()


def _near(path: Path) -> str:
    """The run above a path inside of one, or a run below a folder of runs."""
    around = [folder for folder in path.parents if RunFolder(folder).exists()]
    below = [file.parent for pattern in ("*/experiment.json", "*/*/experiment.json") for file in sorted(path.glob(pattern))]
    return "".join(f"; did you mean {run}?" for run in [*around, *below][:1])


@dataclass(frozen=True)
class OpenRun:
    """A trained model, ready for use.

    Attributes:
        experiment: As it was resolved.
        model: With the checkpoint's weights, in eval mode, on the CPU.
        tokenizer: As it was fitted; None for a synthetic task.
        checkpoint: Where the weights came from.
    """

    experiment: Experiment
    model: GPT
    tokenizer: Tokenizer | None
    checkpoint: checkpoint.Checkpoint


def open_run(path: str | Path, *, which: str = "best", allow_plugins: bool = True) -> OpenRun:
    """Open a run's model.

    Args:
        path: The run folder.
        which: `best`, `last`, or a step number.
        allow_plugins: False refuses a run that used plugin files.

    Raises:
        RunError: No run there, or nothing saved yet.
        CheckpointError: The checkpoint is damaged.
    """
    run = RunFolder(Path(path))
    experiment = run.experiment(allow_plugins=allow_plugins)
    found = checkpoint.load(run.checkpoints, which)
    if found is None:
        raise RunError(f"{run.path} has no checkpoint yet; go on with: minigpt resume {run.path}")
    learned = run.learned()
    tokenizer = None if learned is None else restore_tokenizer(experiment, learned)
    recorded = run.provenance()["data"]
    if (tokenizer is None) != (recorded["tokenizer"] is None):
        raise RunError(f"{run.path / 'tokenizer.json'} is missing")
    if tokenizer is not None and tokenizer.vocab_size != recorded["vocab_size"]:
        raise RunError(
            f"{run.path / 'tokenizer.json'} is damaged: {tokenizer.vocab_size} tokens, not {recorded['vocab_size']}"
        )
    model = build_model(experiment, recorded["vocab_size"])
    found.load_weights(model)
    return OpenRun(experiment, model.eval(), tokenizer, found)
