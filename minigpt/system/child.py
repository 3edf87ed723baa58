"""A function of ours called in a process of its own: one request, and one answer or what the process's end says.

    python -m minigpt.system.child MODULE:FUNCTION REQUEST.json ANSWER.json

Request and answer have the types of the function's annotations: pydantic writes them as JSON, and reads and validates them
at the other end. A `MinigptError` is no answer: it is raised again here. The child ends when this process does.
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
"""Seconds from being asked to stop to being gone: an update, and a checkpoint. A plugin that hangs never gets there."""

_MOST_BYTES = 1 << 30

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True)
class Ending:
    """How a process ended that left no answer.

    Attributes:
        code: Its exit code; negative for a signal.
        timed_out: Whether it was killed because it took too long.
        last_line: The last line on its standard error; empty where that was not kept, or nothing was printed.
    """

    code: int
    timed_out: bool = False
    last_line: str = ""

    def __str__(self) -> str:
        return f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"


class Child(Generic[Q, A]):
    """A process that calls a function. It is in a session of its own: Ctrl-C reaches us, and we ask it to stop.

    Args:
        function: A function of a module, with annotations.
        request: Its argument.
        place: Where the request is written, as `REQUEST.json`'s path.
        answer: Where the answer is written; an error that was raised stands beside it, in `.refused`.
        log: What it prints is added there; None prints it on our standard error.
        variables: Of its environment, beside ours.
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
        """Let it save and stop."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def stop(self, seconds: float = SAVES_WITHIN) -> None:
        """Wait until it has stopped; one that does not is killed."""
        self.ask_to_stop()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def result(self) -> A | Ending:
        """What it answered, once it is over.

        Raises:
            MinigptError: The function raised one.
        """
        self.ask_to_stop()
        if self._refusal.is_file():
            raise _raised(**read_object(self._refusal))
        if not self._answer.is_file():
            return Ending(self.process.returncode)
        answer: A = TypeAdapter(self._type).validate_json(read_bytes(self._answer, _MOST_BYTES))
        return answer


def call(
    function: Callable[[Q], A], request: Q, *, seconds: float | None = None, is_quiet: bool = True, **variables: str
) -> A | Ending:
    """Call a function in a process of its own, and wait for it.

    Args:
        function: A function of a module, with annotations.
        request: Its argument.
        seconds: After which it is killed; None waits for ever.
        is_quiet: Keep what it prints, for the last line; else it is on our standard error.
        variables: Of its environment, beside ours.

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
            return Ending(-signal.SIGKILL, timed_out=True)
        finally:  # also at Ctrl-C
            child.process.kill()
            child.stop()
        result = child.result()
        if isinstance(result, Ending) and log is not None:
            printed = log.read_text("utf-8", "replace").strip().splitlines()
            return Ending(result.code, last_line=printed[-1] if printed else "")
        return result


def main(target: str, request: Path, answer: Path) -> None:
    """In the process: call the function with the request in one file, and write its answer to the other."""
    _stop_with_parent()
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    of_request, of_answer = _types(function)
    try:
        # What a plugin prints must not end up in the output of a command.
        with contextlib.redirect_stdout(sys.stderr):
            value = function(TypeAdapter(of_request).validate_json(read_bytes(request, _MOST_BYTES)))
        _write(answer, value, of_answer)
    except MinigptError as error:
        write_json(answer.with_suffix(".refused"), {"kind": type(error).__name__, "message": str(error)})
        sys.exit(2)


def _stop_with_parent() -> None:
    """The parent holds the other end of standard input; when it is gone, save and stop, and do not hang over that.

    The descriptor is read, and not `sys.stdin`: a thread that waits in that one holds its lock, and the interpreter, which
    wants it when it ends, would abort. Whoever else reads standard input finds nothing there.
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
    """Of its argument and of what it returns."""
    hints = typing.get_type_hints(function)
    answer = hints.pop("return")
    (request,) = hints.values()
    return request, answer


def _write(file: Path, value: Any, kind: Any) -> None:
    write_json(file, TypeAdapter(kind).dump_python(value, mode="json"))


def _raised(kind: str, message: str) -> MinigptError:
    """The error that a function raised in its process; one with problems, as its text."""
    cls = getattr(errors, kind, MinigptError)
    return cls(message) if cls.__init__ is Exception.__init__ else MinigptError(message)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
