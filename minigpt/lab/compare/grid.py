"""The grid of arms and seeds: what is there already, what is to be trained, and its processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from minigpt.data import Corpus, load_corpus
from minigpt.errors import MinigptError, RunError, UnreadableError
from minigpt.files import read_object, write_json
from minigpt.lab.compare.arms import Arm, comparable, comparable_document
from minigpt.lab.compare.cell import SAVES_WITHIN, Job
from minigpt.run import RunFolder
from minigpt.run.lock import held
from minigpt.run.provenance import provenance


@dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        arm: Which.
        seed: Of weights, data order and dropout.
        run: Where it is trained, or was.
        record: Where its outcome is written.
        key: A digest of all that its numbers follow from.
    """

    arm: Arm
    seed: int
    run: RunFolder
    record: Path
    key: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.arm.name}, seed {self.seed}"

    def outcome(self) -> dict[str, Any] | None:
        """Its record, if there is one and it is of this very cell."""
        if not self.record.is_file():
            return None
        try:
            record = read_object(self.record)
        except UnreadableError as error:
            raise RunError(f"{error}; remove it, and the run is looked at again") from error
        return record if record.get("key") == self.key else None


class Watcher(Protocol):
    """Told how the grid comes along."""

    def started(self, cell: Cell) -> None:
        """A process has begun."""

    def progressed(self, cell: Cell, step: int) -> None:
        """It has come to that update."""

    def ended(self, cell: Cell, outcome: dict[str, Any]) -> None:
        """A cell has its outcome, or was stopped."""


class Corpora:
    """The arms' corpora, each loaded once for all arms that share it."""

    def __init__(self) -> None:
        self.loaded: dict[str, Corpus] = {}

    def of(self, arm: Arm) -> Corpus:
        """An arm's corpus."""
        document = arm.experiment.to_json()
        key = json.dumps([document["data"], document["tokenizer"], document["model"]["block_size"]], sort_keys=True)
        if key not in self.loaded:
            self.loaded[key] = load_corpus(arm.experiment)
        return self.loaded[key]


class Grid:
    """All cells of a comparison, in its folder.

    Args:
        folder: `runs/`, `cells/` and `arms/` are made in it.
        arms: The base first.
        seeds: The same for each.
        corpora: Where their corpora come from.
        elsewhere: Folders of runs, to be looked through for finished ones that can be used.
    """

    def __init__(
        self, folder: Path, arms: Sequence[Arm], seeds: Sequence[int], corpora: Corpora, elsewhere: Sequence[Path] = ()
    ):
        self.folder, self.arms, self.seeds = folder, list(arms), list(seeds)
        self.corpora = corpora
        self.present: dict[str, dict[str, Any]] = {}  # what a run of each arm would record if it began now
        found = self._finished([*elsewhere, folder / "runs"])
        self.cells = [self._cell(arm, seed, found) for seed in seeds for arm in arms]

    def _cell(self, arm: Arm, seed: int, found: dict[tuple[str, int], RunFolder]) -> Cell:
        known, document = self._provenance(arm), comparable_document(arm.experiment)
        named = next((run for run in arm.runs if run.is_finished() and run.experiment().seed == seed), None)
        if named is None:
            identity = _identity(document, known)
            run = found.get((identity, seed), RunFolder(self.folder / "runs" / arm.name / f"seed-{seed}"))
        else:
            run, recorded = named, named.provenance()
            _check_data(run, recorded, known)
            identity = _identity(document, recorded)
        key = hashlib.sha256(f"{identity} {seed} {torch.__version__}".encode()).hexdigest()
        return Cell(arm, seed, run, self.folder / "cells" / f"{arm.name}-seed-{seed}.json", key)

    def _provenance(self, arm: Arm) -> dict[str, Any]:
        if arm.name not in self.present:
            corpus = self.corpora.of(arm)
            self.present[arm.name] = provenance(arm.experiment, corpus, device=torch.device("cpu"), precision="fp32")
        return self.present[arm.name]

    def _finished(self, roots: Sequence[Path]) -> dict[tuple[str, int], RunFolder]:
        """Finished runs by what their numbers follow from."""
        found: dict[tuple[str, int], RunFolder] = {}
        for run in (RunFolder(file.parent) for root in roots for file in sorted(root.glob("*/seed-*/experiment.json"))):
            if ".old-" in run.path.name:
                continue
            with contextlib.suppress(
                MinigptError, KeyError, ValueError, TypeError, AttributeError
            ):  # a damaged run is not used, and is no obstacle
                if not run.is_finished():
                    continue
                recorded = run.provenance()
                document = read_object(run.path / "experiment.json")
                if recorded["versions"]["torch"] == torch.__version__:
                    found[_identity(comparable(document), recorded), document["seed"]] = run
        return found

    def missing(self) -> list[Cell]:
        """Cells without an outcome, in the order in which they are trained: seed by seed, so that pairs come early."""
        return [cell for cell in self.cells if cell.outcome() is None]

    def run(
        self,
        watcher: Watcher,
        *,
        jobs: int,
        device: str,
        threads: int | None,
        allow_plugins: bool = True,
        patience: float = math.inf,
    ) -> None:
        """Train what is missing, some cells at a time, each in a process of its own.

        One that gives no sign for `patience` seconds is killed, and has crashed. Raises RunError where another process is
        at the same grid.

        When it is interrupted the processes save and stop; when this process is killed they notice, and do the same.
        """
        with held(self.folder):
            self._run(watcher, jobs, device, threads, allow_plugins, patience)

    def _run(
        self, watcher: Watcher, jobs: int, device: str, threads: int | None, allow_plugins: bool, patience: float
    ) -> None:
        for name in ("arms", "cells", "runs", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        waiting = self.missing()
        running: list[_Running] = []
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    running.append(_Running(cell, self.job(cell, device, threads, allow_plugins)))
                    watcher.started(cell)
                time.sleep(_LOOK_EVERY)
                for process in list(running):
                    step = process.step()
                    if step is not None:
                        watcher.progressed(process.cell, step)
                    process.give_up_after(patience)
                    if process.is_over():
                        running.remove(process)
                        watcher.ended(process.cell, process.outcome())
        finally:
            for process in running:
                process.ask_to_stop()
            for process in running:
                process.stop()

    def job(self, cell: Cell, device: str, threads: int | None, allow_plugins: bool) -> Job:
        """What the process of a cell is told; a run in its folder that is another one is set aside."""
        file = self.folder / "arms" / f"{cell.arm.name}.json"
        document = cell.arm.experiment.to_json()
        document["plugins"] = [str(Path(plugin).absolute()) for plugin in document["plugins"]]
        write_json(file, document)
        if self.folder / "runs" in cell.run.path.parents and cell.run.exists() and not self._continues(cell):
            with cell.run.locked():
                cell.run.set_aside()
        return Job(
            experiment=str(file),
            seed=cell.seed,
            run=str(cell.run.path),
            record=str(cell.record),
            key=cell.key,
            device=device,
            threads=threads,
            allow_plugins=allow_plugins,
        )

    def _continues(self, cell: Cell) -> bool:
        """Whether what was begun in the cell's folder is the cell."""
        same = _identity(comparable(cell.run.document()), cell.run.provenance())
        return same == _identity(comparable_document(cell.arm.experiment), self._provenance(cell.arm))


_LOOK_EVERY = 0.5
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # by someone else: it was saved, and is no outcome


def _check_data(run: RunFolder, recorded: dict[str, Any], known: dict[str, Any]) -> None:
    """A run that was named must have seen the data that is here.

    Raises:
        MinigptError: It has not.
    """
    before, now = (known["data"]["fingerprint"][:12] for known in (recorded, known))
    if before != now:
        raise MinigptError(
            f"{run.path} was trained on data with the fingerprint {before}, and its experiment's data have {now} today: "
            "they cannot be mixed; name the experiment file to train it anew"
        )


def _identity(document: dict[str, Any], recorded: dict[str, Any]) -> str:
    """A digest of what a run's numbers follow from, but for its seed and the machine."""
    sources = sorted((row["component"], row["sha256"] or "") for row in recorded["components"])
    data = recorded["data"]["fingerprint"], recorded["data"]["tokenizer"]
    whole = [document, sources, data, recorded["core"]]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


class _Running:
    """A cell's process."""

    def __init__(self, cell: Cell, job: Job):
        self.cell = cell
        stem = f"{cell.arm.name}-seed-{cell.seed}"
        folder = cell.record.parents[1] / "logs"
        file = folder / f"{stem}.json"
        write_json(file, job)
        self.log = folder / f"{stem}.log"
        environment = {**os.environ}
        if job["threads"] is not None:  # torch reads it at its start; a later change leaves some pools as they are
            environment["OMP_NUM_THREADS"] = str(job["threads"])
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "minigpt.lab.compare.cell", str(file)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches us, and we ask the processes to stop
            )
        self.read = 0
        self.hung, self.written, self.last_sign = False, 0, time.monotonic()

    def step(self) -> int | None:
        """The last update in its records, where there are new ones."""
        metrics = self.cell.run.metrics
        if not metrics.is_file() or metrics.stat().st_size == self.read:
            return None
        with metrics.open("rb") as file:
            self.read = file.seek(0, os.SEEK_END)
            file.seek(max(0, self.read - 2048))
            lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines[1 if self.read > 2048 else 0 :] if line.endswith(b"\n")]
        return int(json.loads(whole[-1])["step"]) if whole else None

    def give_up_after(self, patience: float) -> None:
        """Kill it if neither its records nor its log have grown for so many seconds."""
        written = sum(file.stat().st_size for file in (self.cell.run.metrics, self.log) if file.is_file())
        now = time.monotonic()
        if written != self.written:
            self.written, self.last_sign = written, now
        if now - self.last_sign > patience and not self.is_over():
            self.hung = True
            self.process.kill()

    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def outcome(self) -> dict[str, Any]:
        """The cell's record; where the process left none, what its end says is written as one."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        record, code = self.cell.outcome(), self.process.returncode
        if record is None and code in _STOPPED:
            return {"outcome": "stopped"}
        if record is None:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            how = "no sign of progress, and was killed" if self.hung else how
            record = {
                "key": self.cell.key,
                "run": str(self.cell.run.path),
                "outcome": "crashed",
                "message": f"its process ended with {how}; see {self.log}",
            }
            write_json(self.cell.record, record)
        return record

    def ask_to_stop(self) -> None:
        """Let it save and stop."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def stop(self) -> None:
        """Wait for that; one that does not answer is killed."""
        try:
            self.process.wait(SAVES_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
