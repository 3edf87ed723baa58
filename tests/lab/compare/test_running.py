"""Tests of the processes of cells: how they end, and which outcome follows."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from minigpt.errors import PlanError
from minigpt.lab.compare.grid import Cell
from minigpt.lab.compare.plan import Settings, make_plan
from minigpt.lab.compare.running import Running
from minigpt.run.status import Status
from minigpt.system import child, process
from minigpt.system.files import write_json
from tests.lab.compare.conftest import Write
from tests.training.conftest import INTERRUPTING


@pytest.fixture
def ended(write: Write, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives a cell whose process ended with some code and left no record."""
    found = make_plan([write("base"), write("variant", model={"ffn": "glu"})], Settings(noise=False, seeds=1))
    for name in ("cells", "logs"):
        (found.folder / name).mkdir(parents=True)
    cell = found.grid.cells[0]
    monkeypatch.setattr(child.subprocess, "Popen", Mock())

    def end(code: int, *, hung: bool = False) -> tuple[Cell, Running]:
        running = Running(cell, found.grid.job(cell, "cpu", None, True))
        running.child.process.returncode, running.hung = code, hung
        return cell, running

    return end


@pytest.mark.parametrize("code", [-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, 128 + signal.SIGTERM, 130, 129])
def test_a_process_that_was_asked_to_stop_has_no_outcome(ended: Any, code: int) -> None:
    cell, running = ended(code)
    assert running.outcome() is None
    assert not cell.record.exists()
    assert cell.status() is Status.MISSING, "and there is no run yet"


@pytest.mark.parametrize(
    ("code", "hung", "message"),
    [
        (-signal.SIGSEGV, False, "signal 11"),
        (-signal.SIGABRT, False, "signal 6"),
        (-signal.SIGKILL, False, "signal 9"),
        (-signal.SIGKILL, True, "was killed, because it showed no progress"),
        (-signal.SIGTERM, True, "was killed, because it showed no progress"),
        (0, False, "exit code 0"),
        (5, False, "exit code 5"),
    ],
)
def test_a_process_that_ended_unasked_has_crashed(ended: Any, code: int, hung: bool, message: str) -> None:
    cell, running = ended(code, hung=hung)
    record = running.outcome()
    assert (record.outcome, message in record.message) == (Status.CRASHED, True)
    assert cell.status() is Status.CRASHED


def test_a_refusal_to_train_is_no_outcome_and_ends_the_comparison(ended: Any) -> None:
    cell, running = ended(2)
    write_json(cell.record.with_suffix(".refused"), {"kind": "PlanError", "message": "the source was edited"})
    with pytest.raises(PlanError, match="the source was edited"):
        running.outcome()
    assert not cell.record.exists()
    assert ended(2)[1].outcome().outcome is Status.CRASHED, "a refusal of an earlier process does not count for this one"


@pytest.mark.slow
def test_a_cell_ends_with_exit_code_0_though_its_standard_input_is_open(write: Write) -> None:
    found = make_plan([write("base"), write("variant", model={"ffn": "glu"})], Settings(noise=False, seeds=1))
    cell, job = found.grid.cells[0], Path("job.json")
    cell.record.parent.mkdir(parents=True)
    write_json(job, found.grid.job(cell, "cpu", 1, True).model_dump(mode="json"))
    words = ("-W", "error", "-m", "minigpt.system.child", "minigpt.lab.compare.cell:do", str(job), str(cell.record))
    with subprocess.Popen(process.python(*words), stdin=subprocess.PIPE, env=process.environment()) as running:
        assert running.wait(60) == 0
    assert cell.status() is Status.FINISHED


@pytest.mark.slow
def test_a_stopped_cell_is_continued_by_the_next_comparison(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("interrupting.py").write_text(INTERRUPTING)
    changes: dict[str, Any] = {"plugins": ["interrupting.py"], "training": {"schedule": "interrupting"}}
    files = write("base"), write("variant", **changes)
    statuses = []
    for variables in ({"END_AT": "4", "END_BY": "SIGTERM"}, {"END_AT": "never"}):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        found, watcher = make_plan(files, Settings(noise=False, seeds=1)), Mock()
        found.grid.run(watcher, jobs=2, device="cpu", threads=1)
        base, variant = found.grid.cells
        statuses.append((base.status(), variant.status(), variant.run.status()))
        records = {call.args[0].variant.name: call.args[1] for call in watcher.ended.call_args_list}
        assert records["variant"] == variant.outcome()
        assert found.judge().variants[1].runs[0].outcome is variant.status()
    assert statuses == [
        (Status.FINISHED, Status.STOPPED, Status.STOPPED),
        (Status.FINISHED, Status.FINISHED, Status.FINISHED),
    ]
    assert [row.step for row in variant.run.rows()] == [1, 2, 3, 4, 5, 6]
    assert not list(variant.run.path.parent.glob("*.old-*")), "it was continued"
