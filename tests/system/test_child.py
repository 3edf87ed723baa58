"""A function in a separate process: typed request, typed answer, or how the process ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from minigpt.errors import ExperimentError, MinigptError, PlanError, Problem
from minigpt.system import child, process
from minigpt.system.child import Child, Exit


@dataclass(frozen=True)
class Sum:
    """Numbers to add, and how the process behaves."""

    numbers: tuple[int, ...]
    file: Path
    how: str = ""


@dataclass(frozen=True)
class Total:
    """The sum."""

    total: int
    process: int
    hash_seed: str | None
    file: Path


def add(request: Sum) -> Total:
    print("a plugin prints")
    match request.how:
        case "plan":
            raise PlanError("the source was edited")
        case "problems":
            raise ExperimentError([Problem(("model",), "is no model"), Problem(("data",), "is no data")])
        case "raise":
            raise RuntimeError("boom")
        case "exit":
            os._exit(3)
        case "abort":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "read":
            sys.stdin.read()
        case "hang":
            request.file.write_text("hangs")
            time.sleep(600)
    return Total(sum(request.numbers), os.getpid(), os.environ.get("PYTHONHASHSEED"), request.file)


def test_request_and_answer_have_their_types_in_the_other_process(capfd: pytest.CaptureFixture[str]) -> None:
    total = child.call(add, Sum((1, 2), Path("a")), PYTHONHASHSEED="7")
    assert isinstance(total, Total)
    assert (total.total, total.hash_seed, total.file) == (3, "7", Path("a"))
    assert total.process != os.getpid()
    assert capfd.readouterr() == ("", "")
    child.call(add, Sum((), Path("a")), is_quiet=False)
    assert capfd.readouterr() == ("", "a plugin prints\n"), (
        "standard output may be a document, so nothing else is printed there"
    )


@pytest.mark.parametrize(
    ("how", "ending", "words"),
    [
        ("raise", Exit(1, last_line="RuntimeError: boom"), "exit code 1"),
        ("exit", Exit(3), "exit code 3"),
        ("abort", Exit(-signal.SIGSEGV), "signal 11"),
    ],
)
def test_the_end_of_a_process_without_an_answer_is_reported(how: str, ending: Exit, words: str) -> None:
    found = child.call(add, Sum((), Path("a"), how))
    assert isinstance(found, Exit)
    assert (found.code, found.timed_out, str(found)) == (ending.code, False, words)
    assert how != "raise" or found.last_line == ending.last_line


def test_a_minigpt_error_is_raised_again_in_the_parent() -> None:
    with pytest.raises(PlanError, match="^the source was edited$"):
        child.call(add, Sum((), Path("a"), "plan"))
    with pytest.raises(MinigptError, match="^model: is no model\ndata: is no data$"):
        child.call(add, Sum((), Path("a"), "problems"))


def test_a_process_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    began = time.monotonic()
    assert child.call(add, Sum((), tmp_path / "hangs", "hang"), seconds=1) == Exit(-signal.SIGKILL, timed_out=True)
    assert time.monotonic() - began < 30


def test_standard_input_is_empty_in_a_child() -> None:
    assert isinstance(child.call(add, Sum((), Path("a"), "read"), seconds=60), Total)


def test_a_child_can_be_watched_and_stopped(tmp_path: Path) -> None:
    log = tmp_path / "log"
    running = Child(add, Sum((), tmp_path / "hangs", "hang"), tmp_path / "request.json", tmp_path / "answer.json", log=log)
    while not (tmp_path / "hangs").exists():
        time.sleep(0.05)
    assert not running.is_over()
    running.stop()
    assert running.is_over()
    assert running.result() == Exit(-signal.SIGTERM)
    assert log.read_text() == "a plugin prints\n"


def test_the_answer_of_an_earlier_process_is_not_used(tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    for how, found in (("", Total), ("exit", Exit)):
        running = Child(add, Sum((), tmp_path / "a", how), tmp_path / "request.json", answer, log=tmp_path / "log")
        running.process.wait(60)
        assert isinstance(running.result(), found)


PARENT = """
import sys, time
from pathlib import Path
from minigpt.system.child import Child
from tests.system.test_child import Sum, add
place = Path(sys.argv[1])
child = Child(add, Sum((), place / "hangs", "hang"), place / "request.json", place / "answer.json", log=place / "log")
print(child.process.pid, flush=True)
time.sleep(600)
"""


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    command = process.python("-c", PARENT, str(tmp_path))
    with subprocess.Popen(command, env=process.environment(), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        while not (tmp_path / "hangs").exists():
            time.sleep(0.05)
        parent.kill()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{number}/stat")
        if state.is_file() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child is still running")
