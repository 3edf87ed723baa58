"""Commands in separate processes: imports, exit codes, standard streams, interrupts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import minigpt.cli
from minigpt import __version__
from minigpt.__main__ import main as entry_point
from minigpt.run import RunFolder
from tests.cli.small import ROOT, SHORT, TINY


def process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_a_deleted_working_folder_is_one_line(tmp_path: Path) -> None:
    script = "import os, sys, minigpt.cli; os.rmdir(os.getcwd()); minigpt.cli.main(['list'])"
    child = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (2, "")
    assert child.stderr == "error: the working folder was deleted; change to a folder that exists\n"


def test_help_and_the_package_do_not_import_torch(tmp_path: Path) -> None:
    answer = process("-X", "importtime", "-c", "import minigpt.cli", cwd=tmp_path)
    assert answer.returncode == 0
    modules = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "minigpt.cli" in modules
    assert not modules & {"torch", "numpy", "pydantic", "requests", "jaxtyping"}
    assert process("-c", "import minigpt, sys; assert 'torch' not in sys.modules", cwd=tmp_path).returncode == 0


def test_help_names_every_command_and_version_prints_the_version(tmp_path: Path) -> None:
    answer = process("-m", "minigpt", "--help", cwd=tmp_path)
    assert answer.returncode == 0
    for command in ("run", "resume", "generate", "show", "list", "schema", "data"):
        assert f" {command} " in answer.stdout
    assert process("-m", "minigpt", "--version", cwd=tmp_path).stdout.split() == ["minigpt", __version__]


def test_errors_in_a_process_have_no_traceback(tmp_path: Path) -> None:
    answer = process("-m", "minigpt", "run", "nowhere.json", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr == "error: nowhere.json: there is no such file\n"
    assert process("-m", "minigpt", "rnu", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("command", ["schema", "list --json"])
def test_a_reader_that_closes_the_pipe_is_no_error(command: str, tmp_path: Path) -> None:
    line = f"'{sys.executable}' -m minigpt {command} | true; exit ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0
    assert answer.stderr == ""


SLOW = pytest.mark.slow


@SLOW
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_process_without_standard_streams_works(closed: str, tmp_path: Path, corpus: list[str]) -> None:
    """Daemons and cron start processes without them."""
    small = shlex.join([str(ROOT / "experiments/baseline.json"), *TINY, *SHORT, *corpus, "--no-check"])
    minigpt = f"'{sys.executable}' -m minigpt"
    answer = subprocess.run(["bash", "-c", f"{minigpt} run {small} {closed}"], cwd=tmp_path, timeout=120)
    assert answer.returncode == 0
    assert RunFolder(tmp_path / "runs/baseline/seed-1337").is_finished()
    for command in ("runs", "list norm", "diff runs/baseline/seed-1337 runs/baseline/seed-1337"):
        answer = subprocess.run(["bash", "-c", f"{minigpt} {command} {closed}"], cwd=tmp_path, timeout=60)
        assert answer.returncode == 0, command


def test_an_interrupt_while_modules_are_imported_ends_quietly(tmp_path: Path) -> None:
    (tmp_path / "interrupting.py").write_text(
        "import builtins\nplain = builtins.__import__\n"
        "def interrupted(name, *rest):\n    if name == 'minigpt.cli':\n        raise KeyboardInterrupt\n"
        "    return plain(name, *rest)\nbuiltins.__import__ = interrupted\n"
    )
    answer = process("-c", "import interrupting; from minigpt.__main__ import main; main()", cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (130, "")


@pytest.mark.slow
def test_the_python_names_do_what_the_commands_do(tmp_path: Path, corpus: list[str]) -> None:
    code = """
from minigpt import build_model, generate, load_corpus, load_experiment, register, train
from minigpt.contracts import Schedule

@register("schedule", "half")
class Half(Schedule):
    '''Half the peak.'''
    def __init__(self, max_iters: int): pass
    def factor(self, step): return 0.5

experiment = load_experiment({
    "name": "notebook", "data": {"name": "text", "paths": ["corpus.txt"]},
    "model": {"d_model": 16, "n_heads": 2, "n_layers": 1, "block_size": 16},
    "training": {"max_iters": 3, "schedule": "half", "batch_size": 4},
})
assert build_model(experiment, load_corpus(experiment).vocab_size).n_parameters() > 1000
outcome = train(experiment)
print(len(generate(outcome.run.path, "ROMEO", max_new_tokens=12)[0]))
"""
    answer = process("-W", "error", "-c", code, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "12"


@pytest.mark.parametrize("place", ["_command", "_require_folder"])
def test_ctrl_c_before_the_command_begins_ends_quietly(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(minigpt.cli, place, interrupted)
    with pytest.raises(SystemExit) as caught:
        entry_point()
    assert caught.value.code == 130


def test_torchs_settings_in_the_environment_are_refused_in_one_line() -> None:
    command = [sys.executable, "-m", "minigpt", "show", ROOT / "experiments/baseline.json", "--vocab-size", "65"]
    answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TORCH_LOGS": "bogus"})
    assert answer.returncode == 2
    assert answer.stderr == "error: torch refuses TORCH_LOGS=bogus in the environment; unset or correct it\n"


@pytest.mark.slow
def test_matplotlibs_backend_in_the_environment_does_not_matter() -> None:
    code = "import minigpt.lab.report.figures, os; print(os.environ['MPLBACKEND'])"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "bogus"})
    assert (answer.returncode, answer.stdout) == (0, "bogus\n"), answer.stderr
