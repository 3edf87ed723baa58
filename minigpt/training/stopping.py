"""Signals that ask a training to stop: finish the update and save, or stop at once where there is nothing to finish."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_BY_A_PERSON = (signal.SIGINT, signal.SIGTERM)
"""A second one of these ends the process at once."""

_BY_THE_SYSTEM = tuple(
    number for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU") if (number := getattr(signal, name, None)) is not None
)
"""A closed terminal, a batch system's warning, and the limit of processor time; Windows has none of them.

They may come many times for one cause (a terminal and its shell both send SIGHUP; SIGXCPU comes every second), so a second
one ends nothing. Whoever handles one of them, or ignores it as nohup does, keeps it.
"""


class StopNow(BaseException):
    """Raised out of what need not be finished; like KeyboardInterrupt no `except Exception` catches it."""


class Stop:
    """Whether the user asked to stop, and what may be broken off for it.

    Attributes:
        signal: The one that asked; None while none has.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._breakable = False

    def ask(self, number: int) -> None:
        """Note that a signal came; raises StopNow within `breakable`."""
        self.signal = number
        if self._breakable:
            raise StopNow

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Within it, nothing is lost by breaking off: it is done anew the next time. May raise StopNow at any point."""
        before, self._breakable = self._breakable, True
        try:
            if self.signal is not None:
                raise StopNow
            yield
        finally:
            self._breakable = before


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Signals ask to stop; a second SIGINT or SIGTERM ends the process at once, which harms nothing that is saved.

    A handler runs between any two steps of the interpreter, so it prints nothing: whoever looks at `stop` does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if number in _BY_THE_SYSTEM and stop.signal is not None:
            return  # it is stopping already
        if stop.signal in _BY_A_PERSON:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.ask(number)

    before: dict[int, Any] = {number: signal.signal(number, ask) for number in _taken_over()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _taken_over() -> list[int]:
    """The signals that nobody has a use for: an ignored one stays ignored."""
    theirs = [number for number in _BY_A_PERSON if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return [*theirs, *(number for number in _BY_THE_SYSTEM if signal.getsignal(number) is signal.SIG_DFL)]
