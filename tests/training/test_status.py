"""The status of a run: its ending is recorded if no other file shows it, and the words are the same everywhere."""

from __future__ import annotations

import ast
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

import minigpt
from minigpt.errors import DivergedError, RunError
from minigpt.reading import load_experiment
from minigpt.run import RunFolder
from minigpt.run.status import Status
from minigpt.training import loop, resume
from tests.conftest import Command
from tests.training.conftest import Watcher, Write, run

WORDS = {str(status) for status in Status}
PACKAGE = Path(minigpt.__file__).parent


@pytest.fixture
def spoiled(write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose third update has a non-finite loss, or raises if the test created the file `raise`."""
    folder = RunFolder(tmp_path / "small" / "seed-1337")
    experiment = load_experiment(write_experiment(max_iters=6, checkpoint_interval=1))
    real, calls = loop.compute_gradients, [0]

    def compute(model: object, *arguments: object) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 3 and (tmp_path / "raise").exists():
            raise RuntimeError("[boom] is no markup")
        measured = real(model, *arguments)  # type: ignore[arg-type]
        if calls[0] == 3:
            measured[0] = math.nan
        return measured

    monkeypatch.setattr(loop, "compute_gradients", compute)
    with pytest.raises((DivergedError, RuntimeError)):
        run(experiment, tmp_path)
    return folder


def states(minigpt: Command, root: Path) -> dict[str, str]:
    return {Path(row["run"]).name: row["state"] for row in json.loads(minigpt("runs", root, "--json")[1])}


def test_a_run_that_diverged_is_listed_so_until_it_is_continued(
    spoiled: RunFolder, minigpt: Command, tmp_path: Path
) -> None:
    assert spoiled.status() is Status.DIVERGED
    assert states(minigpt, tmp_path) == {"seed-1337": "diverged"}
    with spoiled.locked():
        assert spoiled.status() is Status.RUNNING
    part = resume(spoiled.path, observer=Watcher(("updated", 1)))  # the loss is finite this time
    assert (part.status, spoiled.status(), spoiled.ending()) == (Status.STOPPED, Status.STOPPED, None)
    assert resume(spoiled.path, observer=Watcher()).status is Status.FINISHED
    assert spoiled.status() is Status.FINISHED


def test_a_run_that_raised_is_listed_as_crashed(
    write_experiment: Write, tmp_path: Path, minigpt: Command, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "raise").touch()
    folder: RunFolder = request.getfixturevalue("spoiled")
    assert folder.status() is Status.CRASHED
    assert json.loads((folder.path / "ending.json").read_text())["message"] == "RuntimeError: [boom] is no markup"
    assert states(minigpt, tmp_path) == {"seed-1337": "crashed"}


def test_a_damaged_ending_is_one_error_line_and_one_row_of_the_list(
    spoiled: RunFolder, minigpt: Command, tmp_path: Path
) -> None:
    sound = spoiled.path.with_name("seed-1")
    shutil.copytree(spoiled.path, sound)
    for content in (
        b"{",
        b"[]",
        b'{"format": 1, "status": "finished", "message": ""}',
        b'{"format": 1, "status": 3}',
        b"\xff",
    ):
        (spoiled.path / "ending.json").write_bytes(content)
        with pytest.raises(RunError, match=r"ending.json is damaged: ") as caught:
            spoiled.status()
        assert len(str(caught.value).splitlines()) == 1
        assert states(minigpt, tmp_path) == {"seed-1337": "damaged", "seed-1": "diverged"}


def test_a_run_that_was_never_begun_is_missing(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "nowhere").status() is Status.MISSING


def test_the_words_for_a_runs_status_are_defined_in_one_place() -> None:
    others = {"problems.py": {"missing"}}  # pydantic's word for a missing key
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.name == "status.py":
            continue
        constants = {node.value for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Constant)}
        found = {each for each in constants if isinstance(each, str)} & WORDS
        assert found == others.get(file.name, set()), file


def test_a_diverged_run_reports_it_in_its_last_line(write_experiment: Write, minigpt: Command, tmp_path: Path) -> None:
    file = write_experiment(optimizer={"name": "sgd", "learning_rate": 1e30}, grad_clip=None)
    code, _, err = minigpt("run", file, "--no-check", "--out", tmp_path / "runs")
    assert code == 3
    assert err.splitlines()[-1].startswith("diverged: the ")
    assert states(minigpt, tmp_path / "runs") == {"seed-1337": "diverged"}
