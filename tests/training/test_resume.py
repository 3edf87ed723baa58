"""A killed and resumed run equals an uninterrupted run bit for bit: with the real command, in real processes.

Real processes are slow, so only one optimizer is killed in them. The others are stopped and resumed within this process.
tests/soak kills forked processes at any moment, with every shipped component in fp32 and bf16.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run import RunFolder, checkpoint
from minigpt.training import resume
from tests.soak.children import differences
from tests.training.conftest import Watcher, Write, run, with_learning_rate

KILLED = [("adamw", "fp32")]
STOPPED = [
    *((entry.name, "fp32") for entry in REGISTRY.entries("optimizer") if (entry.name, "fp32") not in KILLED),
    ("muon", "bf16"),  # its own matrix products use the training precision
]


def minigpt(
    *arguments: str | Path, cwd: Path, end_at: int | None = None, end_by: str = "SIGKILL"
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "END_BY": end_by}
    if end_at is not None:
        environment["END_AT"] = str(end_at)
    command = [sys.executable, "-W", "error", "-m", "minigpt", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("optimizer", "precision"), STOPPED)
def test_a_stopped_run_resumes_bit_for_bit(optimizer: str, precision: str, write_experiment: Write, tmp_path: Path) -> None:
    short = {"max_iters": 14, "eval_interval": 6, "checkpoint_interval": 4}
    experiment = load_experiment(write_experiment(precision=precision, optimizer=with_learning_rate(optimizer), **short))
    whole = run(experiment, tmp_path / "whole")
    part = run(experiment, tmp_path / "part", Watcher(("updated", 7)))
    assert (part.status, part.progress.step) == ("stopped", 8)
    rest = resume(part.run.path, observer=Watcher())
    assert rest.status == "finished"
    assert not differences(whole.run, rest.run)


def test_a_run_that_was_stopped_in_its_last_evaluation_is_finished_by_resuming(
    write_experiment: Write, tmp_path: Path
) -> None:
    experiment = load_experiment(write_experiment(max_iters=6, eval_interval=6))
    part = run(experiment, tmp_path / "part", Watcher(("evaluating", 1)))
    assert (part.status, part.progress.step) == ("stopped", 6)
    assert not differences(run(experiment, tmp_path / "whole").run, resume(part.run.path, observer=Watcher()).run)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "precision"), KILLED)
def test_a_killed_run_resumes_bit_for_bit(optimizer: str, precision: str, write_experiment: Write, tmp_path: Path) -> None:
    file = write_experiment(precision=precision, optimizer=with_learning_rate(optimizer))
    whole = minigpt("run", file, "--no-check", "--out", "whole", "--threads", "1", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    killed = minigpt("run", file, "--no-check", "--out", "killed", "--threads", "1", cwd=tmp_path, end_at=17)
    assert killed.returncode == -signal.SIGKILL
    run = RunFolder(tmp_path / "killed" / "small" / "seed-1337")
    assert len(run.rows()) == 17
    resumed = minigpt("resume", run.path, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert not differences(RunFolder(tmp_path / "whole" / "small" / "seed-1337"), run)
    again = minigpt("resume", run.path, cwd=tmp_path)
    assert again.returncode == 2
    assert "is finished (step 40); try: minigpt generate" in again.stderr


@pytest.mark.slow
def test_signals_save_exit_with_their_code_and_name_the_command_to_continue(write_experiment: Write, tmp_path: Path) -> None:
    file = write_experiment()
    whole = minigpt("run", file, "--no-check", "--out", "whole", "--threads", "1", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    run = RunFolder(tmp_path / "runs" / "small" / "seed-1337")
    stopped = minigpt("run", file, "--no-check", "--threads", "1", cwd=tmp_path, end_at=16, end_by="SIGTERM")
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "stopped after update 17, saved; continue with: minigpt resume runs/small/seed-1337" in stopped.stdout
    assert checkpoint.available(run.checkpoints)[-1] == 17
    again = minigpt("resume", run.path, cwd=tmp_path, end_at=29, end_by="SIGINT")
    assert again.returncode == 128 + signal.SIGINT, again.stderr
    assert minigpt("resume", run.path, cwd=tmp_path).returncode == 0
    assert not differences(RunFolder(tmp_path / "whole" / "small" / "seed-1337"), run)


@pytest.mark.slow
def test_a_changed_plugin_or_corpus_is_refused_unless_accepted(write_experiment: Write, tmp_path: Path) -> None:
    minigpt("run", write_experiment(), "--no-check", "--threads", "1", cwd=tmp_path, end_at=17)
    run = RunFolder(tmp_path / "runs" / "small" / "seed-1337")
    (tmp_path / "interrupting.py").unlink()  # the run folder has a copy
    copy = run.path / "plugins" / "interrupting.py"
    copy.write_text(copy.read_text() + "# edited\n")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(corpus.read_text().replace("4", "5"))
    unknown = minigpt("resume", run.path, cwd=tmp_path)
    assert unknown.returncode == 2
    assert "not executed: " in unknown.stderr
    refused = minigpt("resume", run.path, "--trust", cwd=tmp_path)
    assert refused.returncode == 2
    assert "cannot be continued exactly" in refused.stderr
    for changed in ("the source of schedule/interrupting", "the data ("):
        assert changed in refused.stderr
    accepted = minigpt("resume", run.path, "--accept-changes", cwd=tmp_path)
    assert accepted.returncode == 0, accepted.stderr
    assert "changed: the data" in accepted.stdout
