"""Watch and control the process of a cell."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from pydantic import ValidationError

from minigpt.lab.compare.cell import do
from minigpt.lab.compare.job import CellRecord, Job, updates_in
from minigpt.run import MetricsRow
from minigpt.run.status import Status
from minigpt.system.child import SAVES_WITHIN, Child, Exit

if TYPE_CHECKING:
    from minigpt.lab.compare.grid import Cell

_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_STOPPED = {code for number in _ASKING for code in (-number, 128 + number)}
"""Return codes of a process that was asked to stop: ended by the signal, or with its own exit code after saving."""


class Running:
    """A cell's process."""

    def __init__(self, cell: Cell, job: Job):
        self.cell = cell
        stem = cell.record.parents[1] / "logs" / f"{cell.variant.name}-seed-{cell.seed}"
        request, self.log = stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.log")
        # torch reads this variable when it starts; a later change does not affect all thread pools
        threads = {} if job.threads is None else {"OMP_NUM_THREADS": str(job.threads)}
        self.child = Child(do, job, request, cell.record, log=self.log, **threads)
        self.read = 0
        self.hung, self.written, self.last_sign = False, 0, time.monotonic()

    def step(self) -> int | None:
        """The last update in its records; None if there are no new records."""
        metrics = self.cell.run.metrics
        if not metrics.is_file() or metrics.stat().st_size == self.read:
            return None
        with metrics.open("rb") as file:
            self.read = file.seek(0, os.SEEK_END)
            file.seek(max(0, self.read - 2048))
            lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines[1 if self.read > 2048 else 0 :] if line.endswith(b"\n")]
        try:
            return MetricsRow.model_validate_json(whole[-1]).step if whole else None
        except ValidationError:  # a damaged file; the cell's process reports it
            return None

    def give_up_after(self, patience: float) -> None:
        """Kill the process if neither its records nor its log have grown for `patience` seconds."""
        written = sum(file.stat().st_size for file in (self.cell.run.metrics, self.log) if file.is_file())
        now = time.monotonic()
        if written != self.written:
            self.written, self.last_sign = written, now
        if now - self.last_sign > patience and not self.child.is_over():
            self.hung = True
            self.child.process.kill()

    def outcome(self) -> CellRecord | None:
        """The cell's record; None if the process was stopped.

        If the process ended without a record, a record with its exit code is written. A stopped process gets no record:
        the next comparison continues the run.

        Raises:
            PlanError: The cell could not be trained as planned.
        """
        answer = self.child.result()
        if not isinstance(answer, Exit):
            return answer
        if answer.code in _STOPPED and not self.hung:
            return None
        reason = "was killed, because it showed no progress" if self.hung else f"ended with {answer}"
        record = CellRecord(
            key=self.cell.key,
            run=str(self.cell.run.path),
            outcome=Status.CRASHED,
            message=f"its process {reason}; see {self.log}",
            updates=updates_in(self.cell.run),
        )
        record.write(self.cell.record)
        return record

    def stop(self) -> None:
        """Wait until the process has saved and stopped; kill it if it does not stop in time."""
        self.child.stop(SAVES_WITHIN)
