"""The grid of variants and seeds: find finished runs, and train the missing ones in processes."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Collection, Sequence
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
from minigpt.lab.compare.seeds import Seeds
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
    """A cell of the grid: one variant with one seed.

    Attributes:
        variant: The variant.
        seed: The seed of weights, data order and dropout.
        run: The folder in which it is or was trained.
        record: The file of its record.
        key: Digest of the identity of its run.
    """

    variant: Variant
    seed: int
    run: RunFolder
    record: Path
    key: str

    @property
    def name(self) -> str:
        """The cell's name in messages."""
        return f"{self.variant.name}, seed {self.seed}"

    def outcome(self) -> CellRecord | None:
        """The cell's record, if it belongs to this cell and the run has not changed since; otherwise None.

        Raises:
            RunError: The record is damaged.
        """
        record = CellRecord.read(self.record)
        if record is None or record.key != self.key or record.run != str(self.run.path):
            return None
        if record.outcome is Status.FINISHED:
            return record if self._is_unchanged() else None
        return record if record.updates == updates_in(self.run) else None

    def _is_unchanged(self) -> bool:
        """Whether the finished run still belongs to the cell: it may have been edited or continued with changes."""
        try:
            is_same = self.run.identity().digest() == self.key and not self.run.later_segments()
            return is_same and self.run.is_finished()  # its checkpoints may have been removed
        except RunError:  # the run is missing or damaged
            return False

    def needs_only_measuring(self) -> bool:
        """Whether the cell's run is finished and lacks only the measurement by position and by block of the text."""
        return self.outcome() is None and self._is_unchanged() and is_usable(self.run)

    def continues(self) -> bool:
        """Whether the run in the cell's folder belongs to the cell, and can be continued or used."""
        try:
            is_same = not self.run.later_segments() and self.run.identity().digest() == self.key
            return is_same and is_usable(self.run)
        except RunError:  # the run was begun by an older minigpt, edited, or damaged
            return False

    def status(self) -> Status:
        """The cell's status. Without a record it is the run's status; a run that only lacks the record counts as stopped."""
        record = self.outcome()
        if record is not None:
            return record.outcome
        status = self.run.status()
        return Status.STOPPED if status in (Status.FINISHED, Status.VIOLATED) else status


def is_usable(run: RunFolder) -> bool:
    """Whether a run can be opened or continued: its files are intact and its plugins are trusted.

    No code of the run is executed.
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
    """Is notified as the grid proceeds."""

    def started(self, cell: Cell) -> None:
        """A cell's process has started."""

    def progressed(self, cell: Cell, step: int) -> None:
        """A cell has reached this update."""

    def ended(self, cell: Cell, record: CellRecord | None) -> None:
        """A cell's process has ended; the record is None if it was stopped."""


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
        documents = experiment.training.batching.build().uses_documents
        settings = [document["data"], document["tokenizer"], sources, experiment.model.block_size, documents]
        key = json.dumps(settings, sort_keys=True)
        if key not in self.loaded:
            self.loaded[key] = load_corpus(variant.experiment)
        return self.loaded[key]

    def notes(self) -> list[str]:
        """The notes of all corpora, without duplicates."""
        return list(dict.fromkeys(note for corpus in self.loaded.values() for note in corpus.notes))


class Grid:
    """The cells of a comparison, in the comparison's folder: each variant with each first seed, until `extend` adds others.

    Args:
        folder: The comparison's folder; `inputs/`, `runs/`, `cells/` and `logs/` are made in it.
        variants: The variants, the base first.
        planned: The seeds.
        corpora: Loads the variants' corpora.
        other_runs: Folders of runs that are searched for finished runs to use.
        device: The device on which cells are trained.
    """

    def __init__(
        self,
        folder: Path,
        variants: Sequence[Variant],
        planned: Seeds,
        corpora: Corpora,
        other_runs: Sequence[Path] = (),
        *,
        device: torch.device,
    ):
        self.device = device
        self.folder, self.variants = folder, list(variants)
        self.planned, self.seeds = planned, list(planned.first)
        self.corpora = corpora
        self.present: dict[str, Provenance] = {}  # for each variant, the provenance of a run that would begin now
        self.frozen: dict[str, tuple[Path, Path]] = {}  # for each variant, the copies of its experiment and corpus
        self.finished = self._finished([*other_runs, folder / "runs"])
        self.cells = [self._cell(variant, seed) for seed in planned.first for variant in variants]
        self.further = [self._cell(variant, seed) for seed in planned.further for variant in variants]
        self.again = [self._cell(variants[0], seed) for seed in planned.again]

    @property
    def all_cells(self) -> list[Cell]:
        """The cells in the order of training, so that pairs are complete early; at the end, those for `extend`."""
        return [*self.cells, *self.again, *self.further]

    def extend(self, names: Collection[str]) -> list[Cell]:
        """Add the cells of the next seed for the base and for the variants with these names.

        Returns:
            The cells; none if there is no such variant, or no further seed.
        """
        if not names or not self.further:
            return []
        seed, base = self.further[0].seed, self.variants[0].name
        added = [cell for cell in self.further if cell.seed == seed and cell.variant.name in (base, *names)]
        self.further = [cell for cell in self.further if cell.seed != seed]
        self.cells += added
        self.seeds.append(seed)
        return added

    def earlier(self, variant: Variant) -> list[RunFolder]:
        """Finished runs with the variant's identity except for the seed, one per seed."""
        alike = Identity.of(self._provenance(variant)).with_seed(0).digest()
        found = (run for runs in self.finished.values() for run in runs)
        same = [(run.identity(), run) for run in found]
        return list({str(each.settings["seed"]): run for each, run in same if each.with_seed(0).digest() == alike}.values())

    def _cell(self, variant: Variant, seed: int) -> Cell:
        key = self._planned(variant, seed)
        record = self.folder / "cells" / f"{variant.name}-seed-{seed}.json"
        named = next((run for run in variant.runs if run.is_finished() and run.experiment().seed == seed), None)
        if named is None:
            own, same = self._folder(variant, seed), self.finished.get(key, [])
            others = [run for run in same if run != own and self._stays(run, seed, key)]
            candidates = [Cell(variant, seed, run, record, key) for run in ([own] if own in same else []) + others]
            usable = (cell for cell in candidates if cell.outcome() is not None or is_usable(cell.run))
            return next(usable, Cell(variant, seed, own, record, key))
        _check_data(named, named.provenance(), self._provenance(variant))
        return Cell(variant, seed, named, record, named.identity().digest())

    def _folder(self, variant: Variant, seed: int) -> RunFolder:
        return RunFolder(self.folder / "runs" / variant.name / f"seed-{seed}")

    def _stays(self, run: RunFolder, seed: int, key: str) -> bool:
        """Whether a run stays in its folder: a variant sets a run in its own folder aside if it is not its run."""
        owner = next((variant for variant in self.variants if self._folder(variant, seed) == run), None)
        return owner is None or self._planned(owner, seed) == key

    def _planned(self, variant: Variant, seed: int) -> str:
        """Digest of the identity that a run of the variant would have if it began now."""
        return Identity.of(self._provenance(variant)).with_seed(seed).digest()

    def _provenance(self, variant: Variant) -> Provenance:
        if variant.name not in self.present:
            self.present[variant.name] = present(variant.experiment, self.corpora.of(variant), self.device)
        return self.present[variant.name]

    def _finished(self, roots: Sequence[Path]) -> dict[str, list[RunFolder]]:
        """Finished runs by the digest of their identity; runs with several segments are left out."""
        finished: dict[str, list[RunFolder]] = {}
        for run in (RunFolder(file.parent) for root in roots for file in sorted(root.glob("*/seed-*/experiment.json"))):
            if ".old-" in run.path.name:
                continue
            with contextlib.suppress(
                MinigptError, KeyError, ValueError, TypeError, AttributeError
            ):  # a damaged run is not used, and does not stop the comparison
                if run.is_finished() and not run.later_segments():
                    finished.setdefault(run.identity().digest(), []).append(run)
        return finished

    def missing(self, *, further: bool = False) -> list[Cell]:
        """Cells without an outcome, in the order of training; with `further` also those that may be added."""
        cells = self.all_cells if further else [*self.cells, *self.again]
        return [cell for cell in cells if cell.outcome() is None]

    def missing_runs(self, *, further: bool = False) -> list[Cell]:
        """Missing cells whose run must be trained or continued; the others are only measured."""
        return [cell for cell in self.missing(further=further) if not cell.needs_only_measuring()]

    def forget_failures(self) -> None:
        """Remove the records of runs that did not finish, so that these are trained again."""
        for cell in self.all_cells:
            record = cell.outcome()
            if record is not None and record.outcome is not Status.FINISHED:
                cell.record.unlink()

    def leave_out(self, variant: Variant) -> None:
        """Train no run of a variant, and judge none."""
        self.cells = [cell for cell in self.cells if cell.variant is not variant]

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
        """Train the missing cells, `jobs` at a time, each in a separate process.

        A process that shows no progress for `patience` seconds is killed, and its cell has crashed. If this process is
        interrupted or killed, the others save and stop.

        Raises:
            RunError: Another process works on the same grid.
            PlanError: A cell cannot be trained as planned, because minigpt's own source was edited meanwhile.
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
        self.freeze([cell.variant for cell in self.missing(further=True)])  # all variants, before the first cell starts
        running: list[Running] = []
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    running.append(Running(cell, self.job(cell, device, threads, allow_plugins)))
                    watcher.started(cell)
                time.sleep(_POLL_SECONDS)
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
        """Copy the inputs of these variants, as they were when the plan was made. Raises PluginError, WriteError."""
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
        """The job for a cell's process. A different run in the cell's folder is set aside, and its record removed."""
        self.freeze([cell.variant])
        experiment, corpus = self.frozen[cell.variant.name]
        discard(cell.record)  # it belongs to another cell, otherwise this cell would not be missing
        if self.folder / "runs" in cell.run.path.parents and cell.run.exists() and not cell.continues():
            _wait_until_free(cell.run)
            with cell.run.locked():
                if not cell.continues():  # check again: a run that was still saving may have looked damaged
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


_POLL_SECONDS = 0.5


def _wait_until_free(run: RunFolder) -> None:
    """Wait until no process uses the run, for as long as a process of a killed comparison may need to save."""
    until = time.monotonic() + SAVES_WITHIN
    while run.is_in_use() and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)


def _check_data(run: RunFolder, recorded: Provenance, known: Provenance) -> None:
    """Check that a run named by the user was trained on the data that its experiment gives today.

    Raises:
        MinigptError: It was trained on other data.
    """
    for what, before, now in (
        ("data", recorded.data.fingerprint, known.data.fingerprint),
        ("a tokenizer", recorded.data.tokenizer, known.data.tokenizer),
    ):
        if before != now:
            raise MinigptError(
                f"{run.path} was trained on {what} with the fingerprint {str(before)[:12]}, but its experiment gives "
                f"{str(now)[:12]} today. "
                "Name the experiment file to train a new run"
            )


def present(experiment: Experiment, corpus: Corpus, device: torch.device) -> Provenance:
    """The provenance of a run that would begin now. The experiment's precision must not be `auto`."""
    return provenance(experiment, corpus, device=device, precision=experiment.training.precision)
