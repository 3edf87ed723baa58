"""The process of a cell, as the comparison sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from minigpt.errors import PlanError
from minigpt.lab.compare.job import SAVES_WITHIN, CellRecord, Job, updates_in
from minigpt.run.status import Status
from minigpt.system import process
from minigpt.system.files import discard, open_growing, read_object

if TYPE_CHECKING:
    from minigpt.lab.compare.grid import Cell

_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_STOPPED = {code for number in _ASKING for code in (-number, 128 + number)}
"""How a process ends that someone else asked to: by the signal, or with its exit code once it has saved."""


class Running:
    """A cell's process."""

    def __init__(self, cell: Cell, job: Job):
        self.cell = cell
        stem = f"{cell.variant.name}-seed-{cell.seed}"
        folder = cell.record.parents[1] / "logs"
        file = folder / f"{stem}.json"
        self.refusal = job.refusal
        discard(self.refusal)
        job.write(file)
        self.log = folder / f"{stem}.log"
        # torch reads it at its start; a later change leaves some pools as they are
        threads = {} if job.threads is None else {"OMP_NUM_THREADS": str(job.threads)}
        with os.fdopen(open_growing(self.log), "ab") as log:
            self.process = subprocess.Popen(
                process.python("-m", "minigpt.lab.compare.cell", str(file)),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=process.environment(**threads),
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
        if now - self.last_sign > patience and not self.is_over():
            self.hung = True
            self.process.kill()

    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def outcome(self) -> CellRecord | None:
        """The cell's record; where the process left none, what its end says is written as one. None if it was stopped.

        To be stopped is no outcome, and is not written down: the next comparison continues the run.

        Raises:
            PlanError: It could not be trained as planned.
        """
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.refusal.is_file():
            raise PlanError(read_object(self.refusal)["message"])
        record, code = self.cell.outcome(), self.process.returncode
        if record is None and code in _STOPPED and not self.hung:
            return None
        if record is None:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            how = "no sign of progress, and was killed" if self.hung else how
            record = CellRecord(
                key=self.cell.key,
                run=str(self.cell.run.path),
                outcome=Status.CRASHED,
                message=f"its process ended with {how}; see {self.log}",
                updates=updates_in(self.cell.run),
            )
            record.write(self.cell.record)
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
