"""The process of a cell, as the comparison sees it."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

from minigpt.lab.compare.cell import do
from minigpt.lab.compare.job import CellRecord, Job, updates_in
from minigpt.run.status import Status
from minigpt.system.child import SAVES_WITHIN, Child, Ending

if TYPE_CHECKING:
    from minigpt.lab.compare.grid import Cell

_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_STOPPED = {code for number in _ASKING for code in (-number, 128 + number)}
"""How a process ends that someone else asked to: by the signal, or with its exit code once it has saved."""


class Running:
    """A cell's process."""

    def __init__(self, cell: Cell, job: Job):
        self.cell = cell
        stem = cell.record.parents[1] / "logs" / f"{cell.variant.name}-seed-{cell.seed}"
        request, self.log = stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.log")
        # torch reads it at its start; a later change leaves some pools as they are
        threads = {} if job.threads is None else {"OMP_NUM_THREADS": str(job.threads)}
        self.child = Child(do, job, request, cell.record, log=self.log, **threads)
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
        try:
            return int(json.loads(whole[-1])["step"]) if whole else None
        except (ValueError, KeyError, TypeError):  # damaged, which is for the cell to say
            return None

    def give_up_after(self, patience: float) -> None:
        """Kill it if neither its records nor its log have grown for so many seconds."""
        written = sum(file.stat().st_size for file in (self.cell.run.metrics, self.log) if file.is_file())
        now = time.monotonic()
        if written != self.written:
            self.written, self.last_sign = written, now
        if now - self.last_sign > patience and not self.child.is_over():
            self.hung = True
            self.child.process.kill()

    def outcome(self) -> CellRecord | None:
        """The cell's record; where the process left none, what its end says is written as one. None if it was stopped.

        To be stopped is no outcome, and is not written down: the next comparison continues the run.

        Raises:
            PlanError: It could not be trained as planned.
        """
        answer = self.child.result()
        if not isinstance(answer, Ending):
            return answer
        if answer.code in _STOPPED and not self.hung:
            return None
        how = "no sign of progress, and was killed" if self.hung else str(answer)
        record = CellRecord(
            key=self.cell.key,
            run=str(self.cell.run.path),
            outcome=Status.CRASHED,
            message=f"its process ended with {how}; see {self.log}",
            updates=updates_in(self.cell.run),
        )
        record.write(self.cell.record)
        return record

    def stop(self) -> None:
        """Wait until it has saved and stopped; one that does not answer is killed."""
        self.child.stop(SAVES_WITHIN)
