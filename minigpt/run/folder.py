"""The run folder: its files, its status and its lock."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from minigpt.contracts import Tokenizer
from minigpt.errors import RunError, UnreadableError, WriteError
from minigpt.experiment import Experiment
from minigpt.reading import AS_WRITTEN, Reading, load_recorded, load_without_plugins, migrated
from minigpt.reading.named_plugins import refuse_edited
from minigpt.registry import plugins
from minigpt.run import checkpoint
from minigpt.run.identity import Identity, differing, settings_of
from minigpt.run.manifest import checked_bytes, is_expected, replace_files, write_manifest
from minigpt.run.metrics_file import last_sample, read_records
from minigpt.run.recorded import Ending, JsonObject, MetricsRow, Provenance, read_record
from minigpt.run.sources import refuse_edited_modules
from minigpt.run.status import Status
from minigpt.system.files import discard, entries_below, json_bytes, parse_object, write_bytes
from minigpt.system.lock import held, is_held


@dataclass(frozen=True)
class RunFolder:
    """The folder of one training run, `runs/<name>/seed-<n>/`.

    Attributes:
        path: The path of the folder.
    """

    path: Path

    @classmethod
    def of(cls, experiment: Experiment, root: str | Path = "runs") -> RunFolder:
        """The folder in which an experiment's run belongs."""
        return cls(Path(root) / experiment.name / f"seed-{experiment.seed}")

    @property
    def metrics(self) -> Path:
        """The file of all metrics: one JSON object per line, one line per update."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """The file of the texts that were generated at evaluations."""
        return self.path / "samples.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; see checkpoint.py."""
        return self.path / "checkpoints"

    def begin(self, experiment: Experiment, tokenizer: Tokenizer | None, provenance: Provenance) -> None:
        """Write the inputs of a run: resolved experiment, plugin copies, fitted tokenizer, provenance.

        Raises:
            WriteError: The disk is full or failing.
            RunError: A symbolic link leads out of the folder, or a module of a plugin was edited since it was imported.
        """
        document = experiment.to_file_json()
        refuse_edited(experiment)
        refuse_edited_modules(experiment.specs())
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.check_links()
            document["plugins"] = self._copy_plugins(experiment.plugins)
        except OSError as error:
            raise WriteError(f"{self.path} cannot be written: {error.strerror}") from error
        contents = {"provenance.json": self._with_folder(provenance), "experiment.json": json_bytes(document)}
        if tokenizer is not None:
            contents["tokenizer.json"] = json_bytes(tokenizer.to_json())
        write_manifest(self.path, contents)
        for name in sorted(contents, key="experiment.json".__eq__):  # experiment.json last: it makes a folder a run
            write_bytes(self.path / name, contents[name])

    def begin_segment(self, experiment: Experiment, provenance: Provenance) -> None:
        """Write the settings that the run is continued with. The provenance contains its earlier segments.

        Raises:
            WriteError: The disk is full or failing.
            RunError: A module of a plugin was edited since it was imported.
        """
        refuse_edited_modules(experiment.specs())
        document = {**experiment.to_file_json(), "plugins": self._recorded_experiment().get("plugins", [])}
        # The provenance first, so that the history has the change before the settings have it.
        contents = {"provenance.json": self._with_folder(provenance), "experiment.json": json_bytes(document)}
        replace_files(self.path, contents)

    def _with_folder(self, provenance: Provenance) -> bytes:
        """A provenance with the folder's path, which helps a moved run to find its data."""
        return provenance.model_copy(update={"folder": str(self.path.absolute())}).content()

    def _copy_plugins(self, files: Sequence[str]) -> list[str]:
        names = [Path(file).name for file in files]
        for name in names:
            if names.count(name) > 1:
                raise RunError(f"two plugins are named {name}; rename one of them")
        shutil.rmtree(self.path / "plugins", ignore_errors=True)  # left by an interrupted start
        copies = []
        for file in map(Path, files):
            plugins.write_copy(file, self.path / "plugins" / file.name)
            copies.append(f"plugins/{file.name}")
        return copies

    def set_aside(self) -> Path | None:
        """Rename the folder, if it exists, so that a new run can begin in its place; return its new path."""
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

    def experiment(self, reading: Reading = AS_WRITTEN) -> Experiment:
        """The run's resolved experiment. The copies of its plugins are executed if they are trusted.

        Args:
            reading: How the experiment is read.

        Raises:
            RunError: There is no run here, or its experiment.json was edited.
            TrustError: A plugin is not trusted.
        """
        self._check_exists()
        checked_bytes(self.path, "experiment.json")
        file = self.path / "experiment.json"
        return load_recorded(file, reading)

    def without_plugins(self) -> Experiment | None:
        """The run's experiment, made of shipped and installed parts; None if it needs its own plugins.

        No code of the run is executed.

        Raises:
            ExperimentError: The experiment needs no plugins, but is invalid.
            RunError: There is no run here.
        """
        return load_without_plugins(self.document(), self.path / "experiment.json")

    def _check_exists(self) -> None:
        if not self.exists():
            reason = "it has no experiment.json" if self.path.exists() else "the folder does not exist"
            raise RunError(f"{self.path} is not a run folder: {reason}{_near(self.path)}")

    def moved_data(self) -> list[str]:
        """Overrides with the new paths of data that was moved together with the run.

        If a path does not exist, the same path relative to the run folder is tried. The caller must check the
        fingerprint of the text.
        """
        before, data = self.provenance().folder, self._recorded_experiment().get("data")
        if before is None or not isinstance(data, dict):
            return []
        moved = {key: _moved(value, before, self.path.absolute()) for key, value in data.items()}
        return [f"data.{key}={json.dumps(value)}" for key, value in moved.items() if value != data[key]]

    def identity(self) -> Identity:
        """The recorded identity: what the numbers of the run's last segment follow from.

        Raises:
            RunError: The provenance cannot be read, or differs from experiment.json.
        """
        recorded = Identity.of(self.provenance())
        try:
            edited = differing(recorded.settings, settings_of(self._recorded_experiment()))
        except RecursionError as error:
            raise RunError(f"{self.path / 'experiment.json'} is damaged: nested too deeply") from error
        if edited:
            paths = ", ".join(path for path, *_ in edited)
            raise RunError(f"{self.path / 'experiment.json'} was edited: the run was trained with other values of {paths}")
        return recorded

    def later_segments(self) -> list[str]:
        """The changes with which the run was continued, one line per segment; empty for a run of one segment."""
        return self.provenance().later_segments()

    def provenance(self) -> Provenance:
        """The provenance, recorded when the run began or was continued with changes.

        Raises:
            RunError: The file cannot be read, or is incomplete.
        """
        recorded = read_record(Provenance, checked_bytes(self.path, "provenance.json"), self.path / "provenance.json")
        return recorded.model_copy(update={"experiment": migrated(recorded.experiment)})

    def vocab_size(self) -> int:
        """The size of the vocabulary that the model was built for.

        Raises:
            RunError: It was not recorded.
        """
        return self.provenance().data.vocab_size

    def learned(self) -> JsonObject | None:
        """The state of the fitted tokenizer; None for a synthetic task."""
        return self._json("tokenizer.json") if is_expected(self.path, "tokenizer.json") else None

    def rows(self) -> list[MetricsRow]:
        """All metrics, in order. Raises RunError as `read_records` does, or for an unknown format."""
        try:
            return read_records(self.metrics, self.checkpoints)
        except RunError:
            if self.exists():
                self.provenance()  # raises a better error if the lines have another format
            raise

    def last_sample(self) -> str:
        """The last generated text; empty if there is none. Raises RunError if samples.txt is damaged."""
        return last_sample(self.samples, self.checkpoints)

    def _json(self, name: str) -> JsonObject:
        content = checked_bytes(self.path, name)
        try:
            return parse_object(content, self.path / name)
        except UnreadableError as error:
            raise RunError(str(error)) from error

    def _recorded_experiment(self) -> JsonObject:
        return migrated(self._json("experiment.json"))

    def document(self) -> JsonObject:
        """The recorded experiment as JSON; no code of the run is executed.

        Raises:
            RunError: There is no run here, or experiment.json cannot be read.
        """
        self._check_exists()
        return self._recorded_experiment()

    def max_iters(self) -> int:
        """The number of updates of the whole run, read without loading the experiment and its plugins.

        Raises:
            RunError: It cannot be read.
        """
        training = self._recorded_experiment().get("training")
        number = training.get("max_iters") if isinstance(training, dict) else None
        if isinstance(number, bool) or not isinstance(number, int):
            raise RunError(f"{self.path / 'experiment.json'} is damaged: training.max_iters is {number!r}")
        return number

    def is_finished(self) -> bool:
        """Whether the last update is done, measured and recorded."""
        if not self.exists():
            return False
        rows, last = self.rows(), self.max_iters()
        saved = checkpoint.last_step(self.checkpoints)  # the run may have been killed before the last checkpoint
        return bool(rows) and rows[-1].step >= last and rows[-1].val_loss is not None and saved is not None and saved >= last

    def status(self) -> Status:
        """The run's status.

        Raises:
            RunError: Its files are damaged.
        """
        if not self.exists():
            return Status.MISSING
        if self.is_finished():
            return Status.FINISHED
        if self.is_in_use():
            return Status.RUNNING
        ending = self.ending()
        return ending.status if ending else Status.STOPPED

    def record_ending(self, ending: Ending) -> None:
        """Record that a session diverged or crashed, because no other file shows it. Raises WriteError."""
        write_bytes(self._ending, ending.content())

    def forget_ending(self) -> None:
        """Remove the record of how the previous session ended; called when a session begins."""
        discard(self._ending)

    def ending(self) -> Ending | None:
        """The ending that `record_ending` wrote, if no session has begun since.

        Raises:
            RunError: The record is damaged.
        """
        if not self._ending.is_file():
            return None
        return read_record(Ending, checked_bytes(self.path, self._ending.name), self._ending)

    @property
    def _ending(self) -> Path:
        return self.path / "ending.json"

    def is_in_use(self) -> bool:
        """Whether a process holds the folder now."""
        return is_held(self.path)

    def locked(self) -> AbstractContextManager[None]:
        """Lock the folder against other processes; raises RunError if another process has locked it."""
        return held(self.path)

    def check_links(self) -> None:
        """Refuse symbolic links, which would lead writes out of the folder.

        Raises:
            RunError: There is a symbolic link in the folder or below it.
        """
        check_links(self.path)


def check_links(path: Path) -> None:
    """Refuse symbolic links below a folder, which would lead writes out of it.

    Raises:
        RunError: There is a symbolic link.
    """
    for entry in entries_below(path):
        if entry.is_symlink():
            raise RunError(f"{entry.path} is a symbolic link, which would lead writes out of {path}; remove it")


def _moved(value: JsonValue, before: str, now: Path) -> JsonValue:
    """The value with new paths for files that do not exist any more, if they were moved together with the run."""
    if isinstance(value, list):
        return [_moved(item, before, now) for item in value]
    if isinstance(value, dict):
        return {key: _moved(item, before, now) for key, item in value.items()}
    if not isinstance(value, str) or not os.path.isabs(value) or os.path.exists(value):
        return value
    moved = os.path.normpath(now / os.path.relpath(value, before))
    return moved if os.path.exists(moved) else value


def _near(path: Path) -> str:
    """A suggestion for a path that is not a run: a run above it, or the first run below it."""
    around = [folder for folder in path.parents if RunFolder(folder).exists()]
    below = [file.parent for pattern in ("*/experiment.json", "*/*/experiment.json") for file in sorted(path.glob(pattern))]
    return "".join(f"; did you mean {run}?" for run in [*around, *below][:1])
