"""The run folder: its files, its lock, and how a model is opened from it."""

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
from minigpt.reading import AS_WRITTEN, Reading, load_recorded, load_without_plugins
from minigpt.reading.named_plugins import refuse_edited
from minigpt.registry import plugins
from minigpt.run import checkpoint
from minigpt.run.identity import Identity, differing, settings_of
from minigpt.run.manifest import checked_bytes, is_expected, replace_files, write_manifest
from minigpt.run.recorded import Ending, JsonObject, MetricsRow, Provenance, read_record
from minigpt.run.records import last_sample, read_records
from minigpt.run.status import Status
from minigpt.system.files import discard, json_bytes, parse_object, write_bytes
from minigpt.system.lock import held, is_held


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

    def begin(self, experiment: Experiment, tokenizer: Tokenizer | None, provenance: Provenance) -> None:
        """Write what a run starts from: resolved experiment, plugin copies, fitted tokenizer, provenance.

        Raises:
            WriteError: The disk is full or failing.
            RunError: Something in the folder leads out of it.
        """
        document = experiment.to_json()
        refuse_edited(experiment)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.check_links()
            document["plugins"] = self._copy_plugins(experiment.plugins)
        except OSError as error:
            raise WriteError(f"{self.path} cannot be written: {error.strerror}") from error
        contents = {"provenance.json": self._placed(provenance), "experiment.json": json_bytes(document)}
        if tokenizer is not None:
            contents["tokenizer.json"] = json_bytes(tokenizer.to_json())
        write_manifest(self.path, contents)
        for name in sorted(contents, key="experiment.json".__eq__):  # it is the last: a folder with this file is a run
            write_bytes(self.path / name, contents[name])

    def begin_segment(self, experiment: Experiment, provenance: Provenance) -> None:
        """Write what the run is continued with; its earlier segments are in the provenance.

        Raises:
            WriteError: The disk is full or failing.
        """
        document = {**experiment.to_json(), "plugins": self._json("experiment.json").get("plugins", [])}
        # The provenance first: once the settings are others, the history says so already.
        contents = {"provenance.json": self._placed(provenance), "experiment.json": json_bytes(document)}
        replace_files(self.path, contents)

    def _placed(self, provenance: Provenance) -> bytes:
        """A provenance with the folder's place, from which a run that was moved finds its data."""
        return provenance.model_copy(update={"folder": str(self.path.absolute())}).content()

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

    def experiment(self, reading: Reading = AS_WRITTEN) -> Experiment:
        """The run's resolved experiment; executes the copies of its plugins, where they are trusted.

        Args:
            reading: How it is read.

        Raises:
            RunError: There is no run here, or its experiment.json is not what was written when it began.
            TrustError: A plugin is not trusted.
        """
        self._check_exists()
        checked_bytes(self.path, "experiment.json")
        file = self.path / "experiment.json"
        return load_recorded(file, reading)

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

    def moved_data(self) -> list[str]:
        """Overrides that lead to the data of a run that was moved together with it.

        A path that is gone is looked for at the same place seen from the run folder. Whether the text is the same is for
        its fingerprint to say.
        """
        before, data = self.provenance().folder, self._json("experiment.json").get("data")
        if before is None or not isinstance(data, dict):
            return []
        found = {key: _moved(value, before, self.path.absolute()) for key, value in data.items()}
        return [f"data.{key}={json.dumps(value)}" for key, value in found.items() if value != data[key]]

    def identity(self) -> Identity:
        """What the run's numbers follow from, as it was recorded; of the last segment, where there are several.

        Raises:
            RunError: It cannot be read, or the run's experiment says otherwise.
        """
        found = Identity.of(self.provenance())
        try:
            edited = differing(found.settings, settings_of(self._json("experiment.json")))
        except RecursionError as error:
            raise RunError(f"{self.path / 'experiment.json'} is damaged: nested too deeply") from error
        if edited:
            paths = ", ".join(path for path, *_ in edited)
            raise RunError(f"{self.path / 'experiment.json'} was edited: it was trained with other values of {paths}")
        return found

    def later_segments(self) -> list[str]:
        """The changes that the run was continued with, a line each; empty for a run that is of one piece."""
        return self.provenance().later_segments()

    def provenance(self) -> Provenance:
        """What was recorded when the run began, or was continued with changes.

        Raises:
            RunError: It cannot be read, or is not all there.
        """
        return read_record(Provenance, checked_bytes(self.path, "provenance.json"), self.path / "provenance.json")

    def vocab_size(self) -> int:
        """How many ids the model was built for.

        Raises:
            RunError: That was not recorded.
        """
        return self.provenance().data.vocab_size

    def learned(self) -> JsonObject | None:
        """What the tokenizer learned; None for a synthetic task."""
        return self._json("tokenizer.json") if is_expected(self.path, "tokenizer.json") else None

    def rows(self) -> list[MetricsRow]:
        """All metrics, in order. Raises RunError as `read_records` does, or for a format that cannot be read."""
        try:
            return read_records(self.metrics, self.checkpoints)
        except RunError:
            if self.exists():
                self.provenance()  # a line of another format is no damage: the provenance has the format's number
            raise

    def last_sample(self) -> str:
        """The text that was drawn last; nothing where none was. Raises RunError where samples.txt is damaged."""
        return last_sample(self.samples, self.checkpoints)

    def _json(self, name: str) -> JsonObject:
        content = checked_bytes(self.path, name)
        try:
            return parse_object(content, self.path / name)
        except UnreadableError as error:
            raise RunError(str(error)) from error

    def document(self) -> JsonObject:
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
        return bool(rows) and rows[-1].step >= last and rows[-1].val_loss is not None and saved is not None and saved >= last

    def status(self) -> Status:
        """How the run stands.

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
        """Write down how a session ended, where nothing else in the folder shows it. Raises WriteError."""
        write_bytes(self._ending, ending.content())

    def forget_ending(self) -> None:
        """A session begins: how the one before it ended is past."""
        discard(self._ending)

    def ending(self) -> Ending | None:
        """What `record_ending` wrote, if no session has begun since.

        Raises:
            RunError: It is damaged.
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
        """Hold the folder against other processes; raises RunError where one has it."""
        return held(self.path)

    def check_links(self) -> None:
        """Refuse to write where a symbolic link would lead out of the folder.

        Raises:
            RunError: There is one, in the folder or among its checkpoints.
        """
        check_links(self.path)


def check_links(path: Path) -> None:
    """Refuse to write below a folder where a symbolic link would lead out of it.

    Raises:
        RunError: There is one.
    """
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(folder, name)):
                raise RunError(f"{Path(folder) / name} is a symbolic link; {path} is written into itself only")


def _moved(value: JsonValue, before: str, now: Path) -> JsonValue:
    """Paths that are gone, where they are now if a folder above both them and the run was moved."""
    if isinstance(value, list):
        return [_moved(item, before, now) for item in value]
    if not isinstance(value, str) or not os.path.isabs(value) or os.path.exists(value):
        return value
    place = os.path.normpath(now / os.path.relpath(value, before))
    return place if os.path.exists(place) else value


def _near(path: Path) -> str:
    """The run above a path inside of one, or a run below a folder of runs."""
    around = [folder for folder in path.parents if RunFolder(folder).exists()]
    below = [file.parent for pattern in ("*/experiment.json", "*/*/experiment.json") for file in sorted(path.glob(pattern))]
    return "".join(f"; did you mean {run}?" for run in [*around, *below][:1])
