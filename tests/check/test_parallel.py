"""Targets that are checked in several processes: what fails there is one line here."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minigpt.check import find_targets
from minigpt.check.parallel import Options, check_all
from minigpt.errors import ExperimentError, Problem
from minigpt.registry import plugins
from tests.check.norms import PLUGIN
from tests.conftest import Command

EXITS = '''
import os
from minigpt import register
from minigpt.contracts import Norm

@register("norm", "exits")
class Exits(Norm):
    """Ends the process.

    Args:
        eps: Nothing.
    """
    def __init__(self, width: int, *, eps: float = 1e-5):
        super().__init__()
    def forward(self, x):
        os._exit(5)
'''


def test_a_component_that_ends_its_process_is_one_line(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("exits.py").write_text(EXITS)
    words = ["norm/exits", "norm/none", "--plugin", "exits.py", "--quick", "--jobs", "2"]
    code, _, err = minigpt("check", *words)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: a component ended the process that checked it (a crash, or os._exit)")


def _workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Its spawned workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [int(child) for child, line in lines.items() if b"spawn_main" in line]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_command(number: signal.Signals, tmp_path: Path) -> None:
    words = ["check", "attention/mha", "attention/gqa", "--jobs", "2"]
    with subprocess.Popen([sys.executable, "-m", "minigpt", *words], cwd=tmp_path, stdout=subprocess.DEVNULL) as command:
        until = time.monotonic() + 60
        while len(workers := _workers_of(command)) < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(3)  # until they have begun
        command.send_signal(number)
    until = time.monotonic() + 30
    while alive := [worker for worker in workers if Path(f"/proc/{worker}/task").is_dir()]:
        assert time.monotonic() < until, alive
        time.sleep(0.1)


def test_an_error_comes_whole_from_another_process() -> None:
    error = ExperimentError([Problem(("model", "d_model"), "found 3"), Problem((), "and more")], "x.json")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problems, again.source) == (str(error), error.problems, error.source)


@pytest.mark.slow
def test_checks_in_parallel_processes_give_the_same_reports(plugin: Path) -> None:
    targets = find_targets(["norm/rmsnorm", str(plugin)])
    options = Options(only=("causality", "scaling"))
    serial, parallel = check_all(targets, options), check_all(targets, options, jobs=2)
    assert [report.target for report in serial] == [report.target for report in parallel]
    assert [report.verdict for report in serial] == [report.verdict for report in parallel] == ["pass", "pass", "fail"]
    assert [r.failure for report in serial for r in report.results] == [
        r.failure for report in parallel for r in report.results
    ]


def test_a_plugin_edited_during_the_check_is_not_executed_in_other_processes(minigpt: Command, tmp_path: Path) -> None:
    file, executed = tmp_path / "norms.py", tmp_path / "executed"
    edited = f"{PLUGIN}\nimport os\nos.mkdir({str(executed)!r})\n"
    file.write_text(f"{PLUGIN}\nfrom pathlib import Path\nPath({str(file)!r}).write_text({edited!r})\n")
    code, out, err = minigpt("check", file, "--only", "shape", "--jobs", "2")
    assert (code, out) == (2, "")
    assert f"error: not executed: {file} was edited meanwhile (SHA-256 {plugins.fingerprint(file)}; " in err
    assert len([line for line in err.splitlines() if line and not line.startswith("plugin: ")]) == 1
    assert not executed.exists()
