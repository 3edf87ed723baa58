"""Stop training on a signal: finish the update and save, or stop at once if there is nothing to save."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_BY_A_PERSON = (signal.SIGINT, signal.SIGTERM)
"""Signals that a person sends. A second one ends the process at once."""

_BY_THE_SYSTEM = tuple(
    number for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU") if (number := getattr(signal, name, None)) is not None
)
"""Signals of a closed terminal, a batch system's warning, and the limit of processor time. Windows has none of them.

One cause may send several (a terminal and its shell both send SIGHUP; SIGXCPU comes every second), so a second one is
ignored. A signal that the process already handles, or ignores (nohup), is left as it is.
"""


class StopNow(BaseException):
    """Raised to interrupt work that need not be finished.

    Like KeyboardInterrupt, `except Exception` does not catch it.
    """


class Stop:
    """A request to stop, and whether the current work may be interrupted for it.

    Attributes:
        signal: The number of the signal that requested the stop; None if there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._breakable = False

    def ask(self, number: int) -> None:
        """Record a signal; raises StopNow within `breakable`."""
        self.signal = number
        if self._breakable:
            raise StopNow

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """A context for work that can be interrupted, because the next session repeats it.

        StopNow may come at any point.
        """
        before, self._breakable = self._breakable, True
        try:
            if self.signal is not None:
                raise StopNow
            yield
        finally:
            self._breakable = before


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Handle signals as requests to stop.

    A second SIGINT or SIGTERM ends the process at once, and saved files stay whole.

    A handler runs between any two steps of the interpreter, so it must not print. The code that reads `stop` prints.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if number in _BY_THE_SYSTEM and stop.signal is not None:
            return  # the session is stopping already
        if stop.signal in _BY_A_PERSON:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.ask(number)

    before: dict[int, Any] = {number: signal.signal(number, ask) for number in _free_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_signals() -> list[int]:
    """The signals to handle: ignored ones stay ignored, and system signals with another handler keep it."""
    by_a_person = [number for number in _BY_A_PERSON if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return [*by_a_person, *(number for number in _BY_THE_SYSTEM if signal.getsignal(number) is signal.SIG_DFL)]
