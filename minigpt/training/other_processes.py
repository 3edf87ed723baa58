"""What other processes take of the processors while a run trains: its times are no facts about the model then."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_EVERY = 0.25  # seconds: the system counts in hundredths, and to ask costs up to a millisecond


class OtherProcesses:
    """Measures by intervals, from its beginning on: what the whole machine computed, less what this process did."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.before = _seconds_of_others()

    def seconds(self, *, now: bool = False) -> float | None:
        """CPU seconds that others took since this was last answered; None for "ask later", and where no system says.

        Args:
            now: However short the time since then.
        """
        if self.before is None or not (now or time.perf_counter() - self.began >= _EVERY):
            return None
        after = _seconds_of_others()
        if after is None:
            return None
        passed, self.before, self.began = after - self.before, after, time.perf_counter()
        return passed


def _seconds_of_others() -> float | None:
    """CPU seconds of all processes but this one, since some time; None where the system does not say (it is not Linux)."""
    try:
        with _STAT.open("rb") as file:
            fields = file.readline().split()
        # cpu user nice system idle iowait irq softirq steal: other guests of the host are others too
        user, nice, system, _, _, interrupts, soft, stolen = map(int, fields[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK") - time.process_time()
