"""What a training writes into its run folder: records as they come, checkpoints when they are due."""

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
    """Keeps a run's folder and its growing files open, and decides when to save. A context manager.

    Args:
        run: The folder; nothing is ever written to its path when it is no longer there.
        training: For the intervals.
        start: The checkpoint that training continues from; its records are cut back to what it knows.
        observer: Told of what was deleted.
        clock: Seconds, for the saves that go by time.

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
        """Whether the folder is not where it was any more; `save` saves it where it is, and says so."""
        return self._place.has_moved()

    def is_due(self, step: int, *, evaluated: bool) -> bool:
        """Whether to save after this update: by updates, or by the time since the last save.

        Args:
            step: Updates done.
            evaluated: Whether the model was evaluated after this one.
        """
        every, minutes = self._training.checkpoint_interval, self._training.checkpoint_minutes
        if evaluated if every is None else step % every == 0:
            return True
        return minutes is not None and self._clock() - self._saved_at >= 60 * minutes

    def save(self, model: GPT, optimizer: torch.optim.Optimizer, progress: Progress, *, best: bool) -> Progress:
        """Write a checkpoint.

        Args:
            model: With the weights to be saved.
            optimizer: Likewise its state.
            progress: How far training has come.
            best: Whether this is the lowest validation loss so far.

        Returns:
            The progress as saved: with what the records have by now.

        Raises:
            WriteError: The disk is full or failing.
            RunError: The folder was moved: everything is saved where it is now, and the message says where. Or it cannot
                be found, one of the records was replaced, or it could not be resumed.
        """
        where = self._place.now()
        if where is None:
            raise RunError(f"{self._run.path} was moved, removed or unmounted while it trained. {self._left_behind()}")
        folder = RunFolder(where)
        for file, path in ((self.metrics, folder.metrics), (self.samples, folder.samples)):
            if file.restore_if_deleted(path):
                self._observer.note(f"{path} was deleted while the run wrote to it; it is written again")
        has_lost_its_experiment = self._began and not folder.exists()
        if folder.checkpoints.is_symlink() or has_lost_its_experiment:
            lost = "its experiment.json was removed" if has_lost_its_experiment else "checkpoints was replaced by a link"
            raise RunError(f"{folder.path} was changed while it trained: {lost}. {self._left_behind()}")
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
            return self.save(model, optimizer, progress, best=best)  # it was moved this very moment
        self._saved_at, self._saved_step = self._clock(), saved.step
        if where != self._run.path:
            again = command_line("resume", where)
            raise RunError(
                f"{self._run.path} was moved to {where} while it trained; update {saved.step} is saved there. "
                f"Continue with: {again}"
            )
        return saved

    def _left_behind(self) -> str:
        """What a folder that cannot be found still has, and what to do with it."""
        has = "it has no checkpoint yet"
        if self._saved_step is not None:
            has = f"its last checkpoint is of update {self._saved_step}"
        return f"Wherever it is, {has}; continue with: {command_line('resume', 'FOLDER')}"
