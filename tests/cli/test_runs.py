"""`minigpt runs` lists every run that it finds, and `minigpt diff` compares two."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from minigpt.run import RunFolder
from tests.cli.small import ROOT, SHORT, TINY
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


def test_runs_lists_a_run_of_any_name_beside_deep_folders_and_not_the_plugins_that_runs_copied(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, copied, deep = Path("runs/plugins/seed-1"), Path("runs/plugins/seed-1/plugins/mine"), Path("runs/deep")
    for folder in (run, copied):
        folder.mkdir(parents=True)
        (folder / "experiment.json").write_text('{"training": {"max_iters": 3}}')
    (run / "provenance.json").write_text(json.dumps(PROVENANCE))
    here = os.open(".", os.O_RDONLY)
    try:
        deep.mkdir()
        os.chdir(deep)
        for _ in range(1200):  # deeper than Python's recursion limit, and than a path may be long
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.fchdir(here)
        os.close(here)
    code, out, err = minigpt("runs", "--json")
    assert code == 0, err
    assert [row["run"] for row in json.loads(out)] == ["runs/plugins/seed-1"]
    subprocess.run(["rm", "-rf", deep], check=True)  # Python's own way is recursive


def test_runs_shows_the_progress_of_each_run(minigpt: Command, trained: Path) -> None:
    damaged = Path("runs/baseline/seed-2")
    damaged.mkdir()
    (damaged / "experiment.json").write_text("{")
    shutil.copytree(trained, trained.with_name("seed-1337.old-1"))
    stopped = shutil.copytree(trained, trained.with_name("seed-3"))
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(lines[:3]))
    shutil.rmtree(stopped / "checkpoints/step-00000004")  # it records that there are four lines
    losses = [row.val_loss for row in RunFolder(trained).rows() if row.val_loss is not None]
    rows = {row["run"]: row for row in json.loads(minigpt("runs", "--json")[1])}
    assert {name: (row["state"], row["step"]) for name, row in rows.items()} == {
        "runs/baseline/seed-1337": ("finished", 4),
        "runs/baseline/seed-2": ("damaged", 0),
        "runs/baseline/seed-3": ("stopped", 3),
    }
    assert (rows[str(trained)]["last"], rows[str(trained)]["best"]) == (losses[-1], min(losses))
    with RunFolder(stopped).locked():
        code, out, _ = minigpt("runs")
    assert code == 0
    assert re.search(r"seed-1337 +finished, checked +4/4 +" + f"{losses[-1]:.4f}", out)
    assert re.search(r"seed-3 +running +3/4", out)
    code, _, err = minigpt("runs", "nowhere")
    assert (code, "there is no folder nowhere; to create a run:" in err) == (2, True)


def test_diff_shows_the_differences_between_runs(minigpt: Command, trained: Path, corpus: list[str]) -> None:
    assert minigpt("diff", trained, trained)[1] == "no differences\n"
    other = ["--set", "model.norm=rmsnorm", "--seed", "8", "--name", "other"]
    assert minigpt("run", ROOT / "experiments/baseline.json", *TINY, *SHORT, *corpus, *other)[0] == 0
    code, out, _ = minigpt("diff", trained, "runs/other/seed-8")
    assert code == 0
    words = " ".join(out.split())
    assert "seed 1337 8" in words
    assert "model.norm" in words
    first, second = (RunFolder(Path(run)).rows()[-1].val_loss for run in (trained, "runs/other/seed-8"))
    assert f"last loss {first:.4f} {second:.4f} ({second - first:+.4f})" in words
    assert "machine" not in words
    code, out, _ = minigpt("diff", ROOT / "experiments/quickstart.json", ROOT / "experiments/sandwich.json")
    assert (code, out.count("model.")) == (0, 1)
