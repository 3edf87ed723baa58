"""Write a run's records and checkpoints into its folder during training."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import torch

from minigpt.errors import RunError, WriteError, command_line
from minigpt.experiment import TrainingSection
from minigpt.model import GPT
from minigpt.run import checkpoint
from minigpt.run.checkpoint import Checkpoint
from minigpt.run.folder import RunFolder
from minigpt.run.growing import GrowingFile
from minigpt.run.place import Place
from minigpt.run.progress import Progress
from minigpt.training.observer import Observer


class Saver:
    """A context manager that keeps a run's folder and record files open, and decides when to save.

    Args:
        run: The run folder. If it is moved or removed, nothing is written to its old path.
        training: Gives the intervals between saves.
        start: The checkpoint that training continues from; the records are truncated to its update.
        observer: Notified of deleted records.
        clock: Seconds, for saves at time intervals.

    Attributes:
        metrics: metrics.jsonl.
        samples: samples.txt.
    """

    def __init__(
        self,
        run: RunFolder,
        training: TrainingSection,
        start: Checkpoint | None,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._run, self._training, self._start, self._observer = run, training, start, observer
        self._clock, self._stack = clock, ExitStack()
        self._saved_step = start.progress.step if start else None

    def __enter__(self) -> Saver:
        done = self._start.progress if self._start else Progress()
        with self._stack as opened:
            self._place, self._began = opened.enter_context(Place(self._run.path)), self._run.exists()
            metrics = GrowingFile(self._run.metrics, done.metrics_bytes, done.metrics_sha256)
            self.metrics = opened.enter_context(metrics)
            samples = GrowingFile(self._run.samples, done.samples_bytes, done.samples_sha256)
            self.samples = opened.enter_context(samples)
            if self._start is not None:
                checkpoint.point_at(self._run.checkpoints, self._start.path)
            self._stack = opened.pop_all()
        self._saved_at = self._clock()
        return self

    def __exit__(self, *of_error: object) -> None:
        self._stack.close()

    def has_moved(self) -> bool:
        """Whether the folder was moved or removed. `save` then saves to the new place, and reports it."""
        return self._place.has_moved()

    def is_due(self, step: int, *, evaluated: bool) -> bool:
        """Whether to save after this update, by the number of updates or the time since the last save.

        Args:
            step: Updates done.
            evaluated: Whether the model was evaluated after this update.
        """
        every, minutes = self._training.checkpoint_interval, self._training.checkpoint_minutes
        if evaluated if every is None else step % every == 0:
            return True
        return minutes is not None and self._clock() - self._saved_at >= 60 * minutes

    def save(self, model: GPT, optimizer: torch.optim.Optimizer, progress: Progress, *, best: bool) -> Progress:
        """Write a checkpoint.

        Args:
            model: Has the weights to save.
            optimizer: Has the state to save.
            progress: The updates done, and their totals.
            best: Whether this is the lowest validation loss so far.

        Returns:
            The progress as saved, including the lengths and hashes of the records.

        Raises:
            WriteError: The disk is full or failing.
            RunError: The folder was moved: everything is saved in the new place, which the message names. Or the folder
                cannot be found, a record was replaced, or the folder can no longer be resumed.
        """
        where = self._place.now()
        if where is None:
            raise RunError(f"{self._run.path} was moved, removed or unmounted while it trained. {self._how_to_resume()}")
        folder = RunFolder(where)
        for file, path in ((self.metrics, folder.metrics), (self.samples, folder.samples)):
            if file.restore_if_deleted(path):
                self._observer.note(f"{path} was deleted while the run wrote to it; it is written again")
        lacks_experiment = self._began and not folder.exists()
        if folder.checkpoints.is_symlink() or lacks_experiment:
            change = "its experiment.json was removed" if lacks_experiment else "checkpoints was replaced by a link"
            raise RunError(f"{folder.path} was changed while it trained: {change}. {self._how_to_resume()}")
        saved = replace(
            progress,
            metrics_bytes=self.metrics.length,
            samples_bytes=self.samples.length,
            metrics_sha256=self.metrics.sha256,
            samples_sha256=self.samples.sha256,
        )
        try:
            checkpoint.save(folder.checkpoints, model, optimizer, saved, best=best)
        except WriteError:
            if self._place.now() in (where, None):
                raise
            return self.save(model, optimizer, progress, best=best)  # the folder was moved during the save
        self._saved_at, self._saved_step = self._clock(), saved.step
        if where != self._run.path:
            again = command_line("resume", where)
            raise RunError(
                f"{self._run.path} was moved to {where} while it trained; update {saved.step} is saved there. "
                f"Continue with: {again}"
            )
        return saved

    def _how_to_resume(self) -> str:
        """The last checkpoint of a folder that cannot be found, and how to continue from it."""
        has = "it has no checkpoint yet"
        if self._saved_step is not None:
            has = f"its last checkpoint is of update {self._saved_step}"
        return f"Wherever it is, {has}; continue with: {command_line('resume', 'FOLDER')}"
