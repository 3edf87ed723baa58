"""The grid of variants and seeds: what is there already, what is to be trained, and its processes."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from minigpt.data import Corpus, load_corpus
from minigpt.errors import MinigptError, RunError
from minigpt.experiment import Experiment
from minigpt.lab.compare.frozen import freeze_corpus, freeze_experiment
from minigpt.lab.compare.job import CellRecord, Job, updates_in
from minigpt.lab.compare.running import Running
from minigpt.lab.compare.variants import Variant
from minigpt.reading import named_plugins
from minigpt.run import RunFolder, checkpoint
from minigpt.run.folder import check_links
from minigpt.run.identity import Identity
from minigpt.run.provenance import provenance
from minigpt.run.recorded import Provenance
from minigpt.run.sources import Sources
from minigpt.run.status import Status
from minigpt.system.child import SAVES_WITHIN
from minigpt.system.files import discard
from minigpt.system.lock import held


@dataclass(frozen=True)
class Cell:
    """One variant with one seed.

    Attributes:
        variant: Which.
        seed: Of weights, data order and dropout.
        run: Where it is trained, or was.
        record: Where its outcome is written.
        key: Likewise, of all of it.
    """

    variant: Variant
    seed: int
    run: RunFolder
    record: Path
    key: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.variant.name}, seed {self.seed}"

    def outcome(self) -> CellRecord | None:
        """Its record, if there is one, it is of this very cell, and the run is still what it was then.

        Raises:
            RunError: The record is damaged.
        """
        record = CellRecord.read(self.record)
        if record is None or record.key != self.key or record.run != str(self.run.path):
            return None
        if record.outcome is Status.FINISHED:
            return record if self._is_as_it_was() else None
        return record if record.updates == updates_in(self.run) else None

    def _is_as_it_was(self) -> bool:
        """Whether the finished run is the cell still: it may have been continued with other settings since, or edited."""
        try:
            is_same = self.run.identity().digest() == self.key and not self.run.later_segments()
            return is_same and self.run.is_finished()  # its checkpoints may have been removed
        except RunError:  # or it is gone
            return False

    def is_only_to_measure(self) -> bool:
        """Whether its run is finished, and only the loss by position is not measured yet."""
        return self.outcome() is None and self._is_as_it_was() and is_usable(self.run)

    def continues(self) -> bool:
        """Whether what was begun in its folder is the cell, and can be continued or used."""
        try:
            is_same = not self.run.later_segments() and self.run.identity().digest() == self.key
            return is_same and is_usable(self.run)
        except RunError:  # it was begun by an older minigpt, edited, or damaged
            return False

    def status(self) -> Status:
        """How it stands. Where it has no record, as its run does; one that was not measured to the end was stopped."""
        record = self.outcome()
        if record is not None:
            return record.outcome
        status = self.run.status()
        return Status.STOPPED if status is Status.FINISHED else status


def is_usable(run: RunFolder) -> bool:
    """Whether a run can be opened, or continued where it is not finished: its files are whole, its plugins trusted.

    Nothing of it is executed.
    """
    try:
        named_plugins(run.path / "experiment.json", of_run=True)
        run.learned()
        whole = checkpoint.whole(run.checkpoints)
        if run.is_finished():
            return checkpoint.last_step(run.checkpoints) in whole
        return bool(whole) or not checkpoint.available(run.checkpoints)
    except MinigptError:
        return False


class Watcher(Protocol):
    """Told how the grid comes along."""

    def started(self, cell: Cell) -> None:
        """A process has begun."""

    def progressed(self, cell: Cell, step: int) -> None:
        """It has come to that update."""

    def ended(self, cell: Cell, record: CellRecord | None) -> None:
        """A cell has its outcome; None if it was stopped."""


class Corpora:
    """The variants' corpora, each loaded once for all variants that share it."""

    def __init__(self) -> None:
        self.loaded: dict[str, Corpus] = {}
        self.sources = Sources()

    def of(self, variant: Variant) -> Corpus:
        """A variant's corpus."""
        experiment, document = variant.experiment, variant.experiment.to_json()
        specs = [*experiment.data.nested(), *experiment.tokenizer.nested()]
        sources = [self.sources.part_fingerprint(spec.cls) for spec in specs]  # two versions of a plugin may have one name
        key = json.dumps([document["data"], document["tokenizer"], sources, experiment.model.block_size], sort_keys=True)
        if key not in self.loaded:
            self.loaded[key] = load_corpus(variant.experiment)
        return self.loaded[key]

    def notes(self) -> list[str]:
        """What the corpora say of themselves, each once."""
        return list(dict.fromkeys(note for corpus in self.loaded.values() for note in corpus.notes))


class Grid:
    """All cells of a comparison, in its folder.

    Args:
        folder: `inputs/`, `runs/`, `cells/` and `logs/` are made in it.
        variants: The base first.
        seeds: The same for each.
        corpora: Where their corpora come from.
        elsewhere: Folders of runs, to be looked through for finished ones that can be used.
        device: Where cells are trained.
    """

    def __init__(
        self,
        folder: Path,
        variants: Sequence[Variant],
        seeds: Sequence[int],
        corpora: Corpora,
        elsewhere: Sequence[Path] = (),
        *,
        device: torch.device,
    ):
        self.device = device
        self.folder, self.variants, self.seeds = folder, list(variants), list(seeds)
        self.corpora = corpora
        self.present: dict[str, Provenance] = {}  # what a run of each variant would record if it began now
        self.frozen: dict[str, tuple[Path, Path]] = {}  # of each variant, the copies of its experiment and corpus
        found = self._finished([*elsewhere, folder / "runs"])
        self.cells = [self._cell(variant, seed, found) for seed in seeds for variant in variants]

    def _cell(self, variant: Variant, seed: int, found: dict[str, list[RunFolder]]) -> Cell:
        key = self._planned(variant, seed)
        record = self.folder / "cells" / f"{variant.name}-seed-{seed}.json"
        named = next((run for run in variant.runs if run.is_finished() and run.experiment().seed == seed), None)
        if named is None:
            own, there = self._folder(variant, seed), found.get(key, [])
            others = [run for run in there if run != own and self._stays(run, seed, key)]
            candidates = [Cell(variant, seed, run, record, key) for run in ([own] if own in there else []) + others]
            usable = (cell for cell in candidates if cell.outcome() is not None or is_usable(cell.run))
            return next(usable, Cell(variant, seed, own, record, key))
        _check_data(named, named.provenance(), self._provenance(variant))
        return Cell(variant, seed, named, record, named.identity().digest())

    def _folder(self, variant: Variant, seed: int) -> RunFolder:
        return RunFolder(self.folder / "runs" / variant.name / f"seed-{seed}")

    def _stays(self, run: RunFolder, seed: int, key: str) -> bool:
        """Whether no other variant sets that run aside: it would be in that one's folder without being its run."""
        owner = next((variant for variant in self.variants if self._folder(variant, seed) == run), None)
        return owner is None or self._planned(owner, seed) == key

    def _planned(self, variant: Variant, seed: int) -> str:
        """What a run of the variant has as its identity if it begins now."""
        return Identity.of(self._provenance(variant)).with_seed(seed).digest()

    def _provenance(self, variant: Variant) -> Provenance:
        if variant.name not in self.present:
            self.present[variant.name] = present(variant.experiment, self.corpora.of(variant), self.device)
        return self.present[variant.name]

    def _finished(self, roots: Sequence[Path]) -> dict[str, list[RunFolder]]:
        """Finished runs by what their numbers follow from; those of several segments follow from no one thing."""
        found: dict[str, list[RunFolder]] = {}
        for run in (RunFolder(file.parent) for root in roots for file in sorted(root.glob("*/seed-*/experiment.json"))):
            if ".old-" in run.path.name:
                continue
            with contextlib.suppress(
                MinigptError, KeyError, ValueError, TypeError, AttributeError
            ):  # a damaged run is not used, and is no obstacle
                if run.is_finished() and not run.later_segments():
                    found.setdefault(run.identity().digest(), []).append(run)
        return found

    def missing(self) -> list[Cell]:
        """Cells without an outcome, in the order in which they are trained: seed by seed, so that pairs come early."""
        return [cell for cell in self.cells if cell.outcome() is None]

    def missing_runs(self) -> list[Cell]:
        """Cells whose run is to be trained or continued. Of the other missing ones only the loss by position is measured."""
        return [cell for cell in self.missing() if not cell.is_only_to_measure()]

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

        One that gives no sign for `patience` seconds is killed, and has crashed. When this process is interrupted the
        others save and stop; when it is killed they notice, and do the same.

        Raises:
            RunError: Another process is at the same grid.
            PlanError: A cell cannot be trained as planned, for minigpt's own source was edited meanwhile.
        """
        with held(self.folder):
            check_links(self.folder)
            self._run(watcher, jobs, device, threads, allow_plugins, patience)

    def _run(
        self, watcher: Watcher, jobs: int, device: str, threads: int | None, allow_plugins: bool, patience: float
    ) -> None:
        for name in ("cells", "runs", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        waiting = self.missing()
        self.freeze([cell.variant for cell in waiting])  # all of them before the first one begins
        running: list[Running] = []
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    running.append(Running(cell, self.job(cell, device, threads, allow_plugins)))
                    watcher.started(cell)
                time.sleep(_LOOK_EVERY)
                for process in list(running):
                    step = process.step()
                    if step is not None:
                        watcher.progressed(process.cell, step)
                    process.give_up_after(patience)
                    if process.child.is_over():
                        running.remove(process)
                        watcher.ended(process.cell, process.outcome())
        finally:
            for process in running:
                process.child.ask_to_stop()
            for process in running:
                process.stop()

    def freeze(self, variants: Sequence[Variant]) -> None:
        """Copy what cells are trained from, as it was when the plan was made. Raises PluginError, WriteError."""
        inputs = self.folder / "inputs"
        corpora = {
            id(self.corpora.of(variant)): self.frozen[variant.name][1]
            for variant in self.variants
            if variant.name in self.frozen
        }
        for variant in variants:
            if variant.name in self.frozen:
                continue
            corpus = self.corpora.of(variant)
            if id(corpus) not in corpora:
                corpora[id(corpus)] = freeze_corpus(inputs, corpus)
            self.frozen[variant.name] = freeze_experiment(inputs, variant.experiment), corpora[id(corpus)]

    def job(self, cell: Cell, device: str, threads: int | None, allow_plugins: bool) -> Job:
        """What the process of a cell receives; a run in its folder that is another one is set aside, with its record."""
        self.freeze([cell.variant])
        experiment, corpus = self.frozen[cell.variant.name]
        discard(cell.record)  # of another cell, or it would not be trained
        if self.folder / "runs" in cell.run.path.parents and cell.run.exists() and not cell.continues():
            _wait_until_free(cell.run)
            with cell.run.locked():
                if not cell.continues():  # what was still being saved may have looked damaged
                    cell.run.set_aside()
        return Job(
            experiment=experiment,
            corpus=corpus,
            seed=cell.seed,
            run=cell.run.path,
            key=cell.key,
            device=device,
            threads=threads,
            allow_plugins=allow_plugins,
        )


_LOOK_EVERY = 0.5


def _wait_until_free(run: RunFolder) -> None:
    """A process of a grid that was killed may still be saving there; whoever stays longer is somebody else."""
    until = time.monotonic() + SAVES_WITHIN
    while run.is_in_use() and time.monotonic() < until:
        time.sleep(_LOOK_EVERY)


def _check_data(run: RunFolder, recorded: Provenance, known: Provenance) -> None:
    """A run that was named must have seen the data that is here.

    Raises:
        MinigptError: It has not.
    """
    for what, before, now in (
        ("data", recorded.data.fingerprint, known.data.fingerprint),
        ("a tokenizer", recorded.data.tokenizer, known.data.tokenizer),
    ):
        if before != now:
            raise MinigptError(
                f"{run.path} was trained on {what} with the fingerprint {str(before)[:12]}, and its experiment gives "
                f"{str(now)[:12]} today: "
                "they cannot be mixed; name the experiment file to train it anew"
            )


def present(experiment: Experiment, corpus: Corpus, device: torch.device) -> Provenance:
    """The provenance of a run that would begin now; its precision is settled."""
    return provenance(experiment, corpus, device=device, precision=experiment.training.precision)
