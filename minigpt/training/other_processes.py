"""CPU time that other processes take while a run trains: it makes the run's times unreliable."""

from __future__ import annotations

import os
import time
from pathlib import Path

ALONE = 0.1
"""Share of all processors. If other processes took no more, measured times count as undisturbed."""

_STAT = Path("/proc/stat")
_EVERY_SECONDS = 0.25  # the system counts in hundredths of a second, and a reading costs up to a millisecond


class OtherProcesses:
    """Measures the CPU time of other processes, per interval.

    It is the CPU time of the whole machine minus that of this process.
    """

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.before = _seconds_of_others()

    def share(self) -> float | None:
        """Share of all processors that others took since the last reading.

        None if the system does not report it.
        """
        passed = time.perf_counter() - self.began
        seconds = self.seconds(now=True)
        return None if seconds is None else max(0.0, seconds / max(passed, 1e-9) / (os.cpu_count() or 1))

    def seconds(self, *, now: bool = False) -> float | None:
        """CPU seconds that others took since the last reading.

        Args:
            now: Read even if the last reading was just before.

        Returns:
            None if the last reading was just before, or if the system does not report it.
        """
        if self.before is None or not (now or time.perf_counter() - self.began >= _EVERY_SECONDS):
            return None
        after = _seconds_of_others()
        if after is None:
            return None
        passed, self.before, self.began = after - self.before, after, time.perf_counter()
        return passed


def as_warning(share: float | None) -> str:
    """A warning that other processes disturbed a measurement.

    Empty if their share is too small to matter.
    """
    return "" if share is None or share <= ALONE else f"other processes took {share:.0%} of the processors meanwhile"


def _seconds_of_others() -> float | None:
    """CPU seconds of all other processes since a fixed time.

    None if the system does not report it (only Linux does).
    """
    try:
        with _STAT.open("rb") as file:
            fields = file.readline().split()
        # cpu user nice system idle iowait irq softirq steal; steal is the time of other virtual machines on the host
        user, nice, system, _, _, interrupts, soft, stolen = map(int, fields[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK") - time.process_time()
