"""Output that may fail during training: a closed terminal, a closed pipe, a log file on a full disk."""

from __future__ import annotations

import sys
from typing import Any, TextIO


class OutlivingStream:
    """A stream that ignores write errors, so that training continues when its output is closed.

    Args:
        stream: Receives all output until it fails for the first time.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._failed = False

    def write(self, text: str) -> int:
        """Write the text, or drop it if the stream has failed."""
        return self._try(self._stream.write, text) or len(text)

    def flush(self) -> None:
        """Flush, unless the stream has failed. Python flushes once more when it exits."""
        self._try(self._stream.flush)

    def _try(self, call: Any, *arguments: Any) -> Any:
        if self._failed:
            return None
        try:
            return call(*arguments)
        except OSError:  # EIO: the terminal was closed; EPIPE: the reader closed the pipe; ENOSPC: the log's disk is full
            self._failed = True
            return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_the_terminal() -> None:
    """From now on, output that cannot be written does not end the process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, OutlivingStream):
            setattr(sys, name, OutlivingStream(stream))
