"""`minigpt runs` lists readable and damaged runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.records import PROVENANCE


def test_a_run_that_cannot_be_read_has_a_row_with_the_problem_and_the_others_are_listed(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        run = Path("runs") / name / "seed-1"
        run.mkdir(parents=True)
        (run / "experiment.json").write_text('{"training": {"max_iters": 3}}')
        (run / "provenance.json").write_text(json.dumps(PROVENANCE))
    Path("runs/b/.seed-1.lock").mkdir()  # no user, not even root, can lock a folder as a file
    code, out, err = minigpt("runs", "--json")
    assert code == 0, err
    rows = {row["run"]: row for row in json.loads(out)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "runs/a/seed-1": "stopped",
        "runs/b/seed-1": "damaged",
        "runs/c/seed-1": "stopped",
    }
    assert ".seed-1.lock cannot be opened" in rows["runs/b/seed-1"]["problem"]
    code, out, _ = minigpt("runs")
    assert code == 0
    assert ".seed-1.lock cannot be opened" in out
