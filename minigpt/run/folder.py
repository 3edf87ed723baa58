"""The run folder: its files, its lock, and how a model is opened from it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minigpt import plugins
from minigpt.contracts import Tokenizer
from minigpt.data import restore_tokenizer
from minigpt.errors import RunError, UnreadableError, WriteError
from minigpt.experiment import MAX_COUNT, Experiment
from minigpt.files import read_object, write_json
from minigpt.memory import refuse_if_too_large
from minigpt.model import GPT, build_model, build_model_on_meta
from minigpt.reading import load_recorded, load_without_plugins
from minigpt.run import checkpoint
from minigpt.run.lock import held, is_held


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
        """Write what a run starts from: resolved experiment, plugin copies, fitted tokenizer, provenance.

        Raises:
            WriteError: The disk is full or failing.
            RunError: Something in the folder leads out of it.
        """
        document = experiment.to_json()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.check_links()
            document["plugins"] = self._copy_plugins(experiment.plugins)
        except OSError as error:
            raise WriteError(f"{self.path} cannot be written: {error.strerror}") from error
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
            plugins.write_copy(file, self.path / "plugins" / file.name)
            copies.append(f"plugins/{file.name}")
        return copies

    def set_aside(self) -> Path | None:
        """Rename the folder, if there is one, so that a run can begin in its place; returns its new path."""
        if not self.path.exists():
            return None
        number = next(n for n in itertools.count(1) if not self._aside(n).exists())
        self.path.rename(self._aside(number))
        return self._aside(number)

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.old-{number}")

    def exists(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / "experiment.json").is_file()

    def experiment(
        self,
        *,
        overrides: Sequence[str] = (),
        plugin_files: Sequence[Path] = (),
        allow_plugins: bool = True,
        trust: bool = False,
    ) -> Experiment:
        """The run's resolved experiment; executes the copies of its plugins, where they are trusted.

        Args:
            overrides: As for `load_experiment`.
            plugin_files: Likewise.
            allow_plugins: False refuses a run that names plugin files.
            trust: Trust them from now on.

        Raises:
            RunError: There is no run here.
            TrustError: A plugin is not trusted.
        """
        self._check_exists()
        file = self.path / "experiment.json"
        return load_recorded(file, overrides=overrides, plugin_files=plugin_files, allow_plugins=allow_plugins, trust=trust)

    def without_plugins(self) -> Experiment | None:
        """The run's experiment from parts that are shipped or installed; None where it needs its own plugins.

        Nothing of the run is executed.

        Raises:
            ExperimentError: It needs none, and something is wrong with it.
            RunError: There is no run here.
        """
        return load_without_plugins(self.document(), self.path / "experiment.json")

    def _check_exists(self) -> None:
        if not self.exists():
            reason = "it has no experiment.json" if self.path.exists() else "there is no such folder"
            raise RunError(f"{self.path} is not a run folder: {reason}{_near(self.path)}")

    def provenance(self) -> dict[str, Any]:
        """What was recorded when the run began.

        Raises:
            RunError: It cannot be read, or is not all there.
        """
        recorded = self._json("provenance.json")
        missing = {"versions", "machine", "precision", "data", "core", "components"} - set(recorded)
        if missing:
            raise RunError(f"{self.path / 'provenance.json'} is damaged: it lacks {', '.join(sorted(missing))}")
        try:
            _Provenance.model_validate(recorded)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise RunError(f"{self.path / 'provenance.json'} is damaged: {where}: {first['msg']}") from error
        return recorded

    def vocab_size(self) -> int:
        """How many ids the model was built for.

        Raises:
            RunError: That was not recorded.
        """
        return int(self.provenance()["data"]["vocab_size"])

    def learned(self) -> dict[str, Any] | None:
        """What the tokenizer learned; None for a synthetic task."""
        return self._json("tokenizer.json") if (self.path / "tokenizer.json").is_file() else None

    def rows(self) -> list[dict[str, Any]]:
        """All metrics, in order; a torn last line (the machine went down) is left out.

        Raises:
            RunError: A line is no record.
        """
        if not self.metrics.is_file():
            return []
        found = []
        for number, line in enumerate(_lines(self.metrics), 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise RunError(f"{self.metrics} is damaged: line {number} is not JSON") from error
            if not (isinstance(row, dict) and "step" in row and all(isinstance(n, int | float) for n in row.values())):
                raise RunError(f"{self.metrics} is damaged: line {number} is no record")
            found.append(row)
        return found

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return read_object(self.path / name)
        except UnreadableError as error:
            raise RunError(str(error)) from error

    def document(self) -> dict[str, Any]:
        """The recorded experiment as plain data: nothing is executed to read it.

        Raises:
            RunError: There is no run here, or it cannot be read.
        """
        self._check_exists()
        return self._json("experiment.json")

    def max_iters(self) -> int:
        """How many updates there are to be, without loading the experiment and its plugins.

        Raises:
            RunError: That cannot be read.
        """
        training = self._json("experiment.json").get("training")
        number = training.get("max_iters") if isinstance(training, dict) else None
        if isinstance(number, bool) or not isinstance(number, int):
            raise RunError(f"{self.path / 'experiment.json'} is damaged: training.max_iters is {number!r}")
        return number

    def is_finished(self) -> bool:
        """Whether the last update is done, measured and recorded."""
        if not self.exists():
            return False
        rows, last = self.rows(), self.max_iters()
        saved = checkpoint.last_step(self.checkpoints)  # a kill may have come between the last record and its checkpoint
        return bool(rows) and rows[-1]["step"] >= last and "val_loss" in rows[-1] and saved is not None and saved >= last

    def is_in_use(self) -> bool:
        """Whether a process holds the folder now."""
        return is_held(self.path)

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder against other processes; raises RunError where one has it."""
        return held(self.path)

    def check_links(self) -> None:
        """Refuse to write where a symbolic link would lead out of the folder.

        Raises:
            RunError: There is one, in the folder or among its checkpoints.
        """
        for folder, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                if os.path.islink(os.path.join(folder, name)):
                    raise RunError(f"{Path(folder) / name} is a symbolic link; a run is written into its own folder only")


class _Recorded(BaseModel):
    """A part of provenance.json that is used later; what stands beside it is left alone."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Machine(_Recorded):
    device: Literal["cpu", "cuda", "mps"]
    threads: Annotated[int, Field(gt=0, le=1 << 16)]


class _Data(_Recorded):
    fingerprint: str
    tokenizer: str | None = None
    vocab_size: Annotated[int, Field(gt=0, le=MAX_COUNT)]
    entropies: dict[str, float] | None = None


class _Component(_Recorded):
    component: str
    file: str | None
    sha256: str | None


class _Provenance(_Recorded):
    versions: dict[str, str]
    machine: _Machine
    precision: Literal["fp32", "bf16"]
    data: _Data
    core: str
    components: list[_Component]


def _lines(path: Path) -> Iterator[bytes]:
    try:
        if not path.is_file():
            raise RunError(f"{path} is no ordinary file")
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error


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


def open_run(path: str | Path, *, which: str = "best", allow_plugins: bool = True, trust: bool = False) -> OpenRun:
    """Open a run's model.

    Args:
        path: The run folder.
        which: `best`, `last`, or a step number.
        allow_plugins: False refuses a run that used plugin files.
        trust: Execute the run's own plugins, and trust them from now on; known ones need no word.

    Raises:
        RunError: No run there, or nothing saved yet.
        TrustError: A plugin of the run is not trusted.
        CheckpointError: The checkpoint is damaged.
    """
    run = RunFolder(Path(path))
    experiment = run.experiment(allow_plugins=allow_plugins, trust=trust)
    learned = run.learned()
    tokenizer = None if learned is None else restore_tokenizer(experiment, learned)
    vocab_size = run.vocab_size()
    if (tokenizer is None) != (run.provenance()["data"].get("tokenizer") is None):
        raise RunError(f"{run.path / 'tokenizer.json'} is missing")
    if tokenizer is not None and tokenizer.vocab_size != vocab_size:
        raise RunError(f"{run.path / 'tokenizer.json'} is damaged: {tokenizer.vocab_size} tokens, not {vocab_size}")
    shapes = build_model_on_meta(experiment.model, vocab_size)  # before memory is asked for, in case it is absurd
    refuse_if_too_large(f"{run.path}: the model", sum(value.nbytes for value in shapes.state_dict().values()))
    found = checkpoint.load(run.checkpoints, which, shapes)
    if found is None:
        raise RunError(f"{run.path} has no checkpoint yet; go on with: minigpt resume {run.path}")
    model = build_model(experiment, vocab_size)
    found.load_weights(model)
    return OpenRun(experiment, model.eval(), tokenizer, found)
