"""Pipes, links and odd names in place of the files of a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.hostile.edits import refused, unfinished


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(name: str, minigpt: Command, run: Path) -> None:
    unfinished(run)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    refused(minigpt, "resume", run, "--accept-changes")


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "optimizer.safetensors", "manifest.json"])
@pytest.mark.parametrize("command", ["runs", "diff", "report", "generate", "resume"])
def test_a_pipe_in_a_checkpoint_is_not_waited_for(name: str, command: str, minigpt: Command, run: Path) -> None:
    for file in run.glob(f"checkpoints/step-*/{name}"):
        file.unlink()
        os.mkfifo(file)
        if name != "manifest.json":
            manifest = file.with_name("manifest.json")
            expected = json.loads(manifest.read_text())
            expected[name]["bytes"] = 0  # as long as the pipe
            manifest.write_text(json.dumps(expected))
    arguments = {"runs": ["runs"], "diff": ["diff", run, run], "generate": ["generate", run], "resume": ["resume", run]}
    code, _, err = minigpt(*arguments.get(command, [command, run, "--out", "page.html"]))
    assert code in (0, 2)
    assert "Traceback" not in err


def test_a_pipe_in_place_of_a_new_file_is_removed(minigpt: Command, run: Path) -> None:
    unfinished(run)
    os.mkfifo(run / "checkpoints" / ".last.new")
    code, _, err = minigpt("resume", run, "--accept-changes")
    assert code == 0, err
    assert not (run / "checkpoints" / ".last.new").exists()


def test_a_run_does_not_start_in_a_folder_with_only_checkpoints(minigpt: Command, run: Path) -> None:
    (run / "experiment.json").unlink()
    assert "has checkpoints and no experiment.json" in refused(minigpt, "run", "small.json")
    assert minigpt("run", "small.json", "--fresh")[0] == 0
    assert Path("runs/small/seed-1337.old-1/checkpoints").is_dir()


@pytest.mark.slow
def test_names_that_are_not_text_are_kept_unchanged(minigpt: Command, run: Path) -> None:
    """An argument may be any bytes."""
    odd = os.fsdecode(b"caf\xe9.json")
    shutil.copy("small.json", odd)
    done = subprocess.run([sys.executable, "-m", "minigpt", "run", odd, "--name", "odd"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    refused(minigpt, "run", odd, "--name", "odd", "--out", os.fsdecode(b"r\xfcns"))
    refused(minigpt, "run", "small.json", "--set", 'description="\\ud800"')


def test_a_run_in_the_working_folder_can_be_named_by_a_dot(
    minigpt: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    assert "is finished (step 4)" in refused(minigpt, "resume", ".")


IN_A_CHECKPOINT = "checkpoints/step-00000004/state.json"


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "samples.txt", "checkpoints", "checkpoints/last", "provenance.json", IN_A_CHECKPOINT]
)
def test_links_out_of_a_run_are_not_written_through(name: str, minigpt: Command, run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    place = run / name
    place.rename(outside)
    before = sorted(outside.iterdir()) if outside.is_dir() else outside.read_bytes()
    place.symlink_to(outside)
    experiment = run / "experiment.json"
    experiment.write_text(experiment.read_text().replace('"max_iters": 4', '"max_iters": 8'))
    assert f"{place} is a symbolic link" in refused(minigpt, "resume", run, "--accept-changes")
    assert (sorted(outside.iterdir()) if outside.is_dir() else outside.read_bytes()) == before


def test_a_link_in_place_of_a_new_run_is_not_written_through(minigpt: Command, run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    folder = Path("runs/small/seed-7")
    folder.mkdir()
    (folder / "metrics.jsonl").symlink_to(outside)
    assert "is a symbolic link" in refused(minigpt, "run", "small.json", "--seed", "7")
    assert outside.read_text() == "mine"
