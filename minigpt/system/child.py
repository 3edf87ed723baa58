"""Calls a function of minigpt in a separate process: one request, and one answer or an `Exit`.

    python -m minigpt.system.child MODULE:FUNCTION REQUEST.json ANSWER.json

Request and answer have the types of the function's annotations: pydantic writes them as JSON, and reads and validates them
in the other process. A `MinigptError` in the child is raised again in the parent. The child ends when its parent does.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from minigpt import errors
from minigpt.errors import MinigptError
from minigpt.system import process
from minigpt.system.files import discard, open_growing, read_bytes, read_object, write_json

SAVES_WITHIN = 60.0
"""Seconds to stop after a request: for an update and a checkpoint. A plugin that hangs needs longer, and is killed."""

_MOST_BYTES = 1 << 30

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True)
class Exit:
    """How a process without an answer ended.

    Attributes:
        code: Its exit code; negative for a signal.
        timed_out: Whether it was killed because it took too long.
        last_line: The last line on its standard error; empty if that was not kept, or nothing was printed.
    """

    code: int
    timed_out: bool = False
    last_line: str = ""

    def __str__(self) -> str:
        return f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"


class Child(Generic[Q, A]):
    """A process that calls a function, in its own session.

    Ctrl-C reaches only the parent, which asks the child to stop.

    Args:
        function: A function of a module, with annotations.
        request: Its argument.
        place: File for the request, `REQUEST.json` above.
        answer: File for the answer; an error that the function raises is written beside it, with ending `.refused`.
        log: File that its output is appended to; None for the parent's standard error.
        variables: Environment variables, in addition to the parent's.
    """

    def __init__(
        self, function: Callable[[Q], A], request: Q, place: Path, answer: Path, *, log: Path | None = None, **variables: str
    ):
        self._answer, self._refusal, self._type = answer, answer.with_suffix(".refused"), _types(function)[1]
        for outdated in (answer, self._refusal):
            discard(outdated)
        _write(place, request, _types(function)[0])
        command = ["-m", __name__, f"{function.__module__}:{function.__name__}", str(place), str(answer)]
        with contextlib.ExitStack() as stack:
            output = None if log is None else stack.enter_context(os.fdopen(open_growing(log), "ab"))
            self.process = subprocess.Popen(
                process.python(*command),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=process.environment(**variables),
                start_new_session=True,
            )

    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def ask_to_stop(self) -> None:
        """Ask it to save and stop."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def stop(self, seconds: float = SAVES_WITHIN) -> None:
        """Ask it to stop and wait; kill it after `seconds`."""
        self.ask_to_stop()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def result(self) -> A | Exit:
        """The answer of a finished process.

        Raises:
            MinigptError: The function raised one.
        """
        self.ask_to_stop()
        if self._refusal.is_file():
            raise _raised(**read_object(self._refusal))
        if not self._answer.is_file():
            return Exit(self.process.returncode)
        answer: A = TypeAdapter(self._type).validate_json(read_bytes(self._answer, _MOST_BYTES))
        return answer


def call(
    function: Callable[[Q], A], request: Q, *, seconds: float | None = None, is_quiet: bool = True, **variables: str
) -> A | Exit:
    """Call a function in a separate process, and wait for it.

    Args:
        function: A function of a module, with annotations.
        request: Its argument.
        seconds: Time after which it is killed; None waits without limit.
        is_quiet: Keep its output, for `Exit.last_line`; else it goes to standard error.
        variables: Environment variables, in addition to the parent's.

    Returns:
        Its answer, or how the process ended.

    Raises:
        MinigptError: The function raised one.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        log = place / "log" if is_quiet else None
        child = Child(function, request, place / "request.json", place / "answer.json", log=log, **variables)
        try:
            child.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return Exit(-signal.SIGKILL, timed_out=True)
        finally:  # also after Ctrl-C
            child.process.kill()
            child.stop()
        result = child.result()
        if isinstance(result, Exit) and log is not None:
            printed = log.read_text("utf-8", "replace").strip().splitlines()
            return Exit(result.code, last_line=printed[-1] if printed else "")
        return result


def main(target: str, request: Path, answer: Path) -> None:
    """Run in the child: call the function with the request of one file, and write its answer to the other."""
    _stop_with_parent()
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    of_request, of_answer = _types(function)
    try:
        # A plugin's output must not appear in the output of a command.
        with contextlib.redirect_stdout(sys.stderr):
            value = function(TypeAdapter(of_request).validate_json(read_bytes(request, _MOST_BYTES)))
        _write(answer, value, of_answer)
    except MinigptError as error:
        write_json(answer.with_suffix(".refused"), {"kind": type(error).__name__, "message": str(error)})
        sys.exit(2)


def _stop_with_parent() -> None:
    """Save and stop when standard input closes, because the parent has ended; kill a process that hangs.

    It reads the descriptor instead of `sys.stdin`: a thread that waits in `sys.stdin` holds its lock, and the interpreter
    would abort at its end, when it needs this lock. Other readers of standard input find it empty.
    """
    pipe, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)

    def wait() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SAVES_WITHIN)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _types(function: Callable[[Q], A]) -> tuple[Any, Any]:
    """Types of the function's argument and result."""
    hints = typing.get_type_hints(function)
    answer = hints.pop("return")
    (request,) = hints.values()
    return request, answer


def _write(file: Path, value: Any, kind: Any) -> None:
    write_json(file, TypeAdapter(kind).dump_python(value, mode="json"))


def _raised(kind: str, message: str) -> MinigptError:
    """The error that the function raised in its process; one with a special constructor as MinigptError."""
    cls = getattr(errors, kind, MinigptError)
    return cls(message) if cls.__init__ is Exception.__init__ else MinigptError(message)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
