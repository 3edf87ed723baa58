"""What other processes take of the processors while a run trains: its times are no facts about the model then."""

from __future__ import annotations

import os
import time
from pathlib import Path

ALONE = 0.1
"""Of the processors: other processes that took no more of them leave the times of what ran meanwhile as they are."""

_STAT = Path("/proc/stat")
_EVERY = 0.25  # seconds: the system counts in hundredths, and to ask costs up to a millisecond


class OtherProcesses:
    """Measures by intervals, from its beginning on: what the whole machine computed, less what this process did."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.before = _seconds_of_others()

    def share(self) -> float | None:
        """Of all processors, what others took since the last answer or the beginning; None where the system does not say."""
        passed = time.perf_counter() - self.began
        seconds = self.seconds(now=True)
        return None if seconds is None else max(0.0, seconds / max(passed, 1e-9) / (os.cpu_count() or 1))

    def seconds(self, *, now: bool = False) -> float | None:
        """CPU seconds that others took since this was last answered; None where that was just now, or no system says it.

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


def as_warning(share: float | None) -> str:
    """That others took so much of the processors while something was timed; nothing where that does not matter."""
    return "" if share is None or share <= ALONE else f"other processes took {share:.0%} of the processors meanwhile"


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
