"""Comparisons with a variant that learns from a finished run: the teacher is checked when the comparison is planned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.reading import load_experiment
from minigpt.run import RunFolder
from tests.conftest import Command
from tests.lab.compare.conftest import Write, write
from tests.training.conftest import Watcher, run

__all__ = ["write"]  # the fixture

OWN_NORM = '''
import sys
from minigpt import register
from minigpt.components.norm.rmsnorm import RMSNorm

sys.stderr.write("executed\\n")

@register("norm", "own")
class Own(RMSNorm):
    """RMSNorm under another name."""
'''


def objective(run: str) -> dict[str, object]:
    return {"objective": {"name": "distillation", "run": run}}


@pytest.fixture
def students(write: Write, minigpt: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, Path]:
    """A base, and a variant that is taught by a run with a plugin that this person has not trusted."""
    Path("own.py").write_text(OWN_NORM)
    assert minigpt("run", write("teacher", plugins=["own.py"], model={"norm": "own"}), "--no-check")[0] == 0
    monkeypatch.setenv("MINIGPT_CONFIG", str(tmp_path / "another person"))
    return write("base"), write("student", model=objective("runs/teacher/seed-5"))


def compare(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minigpt", "compare", *map(str, words), "--seeds", "1", "--no-noise"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_its_plugins_are_executed_only_if_they_are_trusted(students: tuple[Path, Path]) -> None:
    for options, reason in (([], "give --trust"), (["--no-plugins"], "plugins are refused (--no-plugins), but it names")):
        refused = compare(*students, *options)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert reason in refused.stderr
    done = compare(*students, "--trust")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0].startswith("plugin: ")
    assert done.stderr.splitlines()[1] == "executed"
    assert RunFolder(Path("comparisons/base/runs/student/seed-5")).is_finished()
    assert "2 exist already" in compare(*students).stdout


@pytest.mark.parametrize(
    ("teacher", "reason"),
    [
        ("nothing", "model.objective: {here}/nothing is not a run folder: the folder does not exist"),
        (".", "model.objective: {here} is not a run folder: it has no experiment.json"),
        ("runs/stopped/seed-5", "{here}/runs/stopped/seed-5 is not finished, so it cannot teach yet; continue it: minigpt resume"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_teach_is_reported_when_it_is_planned(
    teacher: str, reason: str, write: Write, minigpt: Command
) -> None:
    assert run(load_experiment(write("stopped")), Path("runs"), Watcher(("updated", 4))).status == "stopped"
    code, _, err = minigpt("compare", write("base"), write("student", model=objective(teacher)), "--plan")
    assert (code, err.count("\n")) == (2, 1)
    assert reason.format(here=Path.cwd()) in err
