"""Output that may disappear: a closed terminal, a pipe that nobody reads, a log file on a full disk."""

from __future__ import annotations

import sys
from typing import Any, TextIO


class OutlivingStream:
    """A stream whose errors are dropped, so that a training outlives whoever was looking at it.

    Args:
        stream: Everything is passed on to it until it fails for the first time.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._failed = False

    def write(self, text: str) -> int:
        """Write, or drop the text where nobody can read it any more."""
        return self._try(self._stream.write, text) or len(text)

    def flush(self) -> None:
        """Flush, if there is still something to flush to; Python does it once more at its exit."""
        self._try(self._stream.flush)

    def _try(self, call: Any, *arguments: Any) -> Any:
        if self._failed:
            return None
        try:
            return call(*arguments)
        except OSError:  # EIO: the terminal was closed; EPIPE: the reader has gone; ENOSPC: the log's disk is full
            self._failed = True
            return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_the_terminal() -> None:
    """From now on, output that cannot be written ends nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, OutlivingStream):
            setattr(sys, name, OutlivingStream(stream))
