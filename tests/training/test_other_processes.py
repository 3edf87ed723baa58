"""The CPU time of other processes is recorded with a run's own times."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from minigpt.reading import load_experiment
from minigpt.training import other_processes
from minigpt.training.other_processes import OtherProcesses, as_warning
from tests.training.conftest import Write, run


def stat(file: Path, busy: float, idle: float = 0.0) -> None:
    """Write a /proc/stat with `busy` and `idle` seconds; part of the busy time is that of another virtual machine."""
    ticks = [round(100 * seconds) for seconds in (busy - 4, 1, 1, idle, idle, 0.5, 0.5, 1, 7, 7)]
    file.write_text(f"cpu  {' '.join(map(str, ticks))}\ncpu0 1 2 3\n")


@pytest.fixture
def proc_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A replacement for /proc/stat; this process has used no CPU time."""
    file = tmp_path / "stat"
    stat(file, 100)
    monkeypatch.setattr(other_processes, "_STAT", file)
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    return file


def test_the_machines_cpu_time_minus_this_processs_is_that_of_others(
    proc_stat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = OtherProcesses()
    stat(proc_stat, 103, idle=50)
    monkeypatch.setattr(time, "process_time", lambda: 2.0)
    assert others.seconds() is None, "a quarter of a second has not passed yet"
    assert others.seconds(now=True) == pytest.approx(1.0)
    assert others.seconds(now=True) == pytest.approx(0.0), "counted from the last reading"


def test_a_share_is_of_all_processors_and_small_ones_are_no_warning(
    proc_stat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "perf_counter", iter([0.0, 10.0, 10.0, 10.0]).__next__)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    others = OtherProcesses()
    stat(proc_stat, 110)
    share = others.share()
    assert share == pytest.approx(10 / 10 / 4)
    assert as_warning(share) == "other processes took 25% of the processors meanwhile"
    assert as_warning(0.1) == as_warning(None) == ""


@pytest.mark.parametrize("content", [None, "", "cpu 1 2", "cpu a b c d e f g h i"])
def test_nothing_is_recorded_if_the_system_does_not_report_it(proc_stat: Path, content: str | None) -> None:
    proc_stat.unlink() if content is None else proc_stat.write_text(content)
    assert OtherProcesses().seconds(now=True) is None


@pytest.mark.usefixtures("proc_stat")
def test_a_run_records_the_cpu_time_of_others_at_least_at_its_end(write_experiment: Write, tmp_path: Path) -> None:
    rows = run(load_experiment(write_experiment(max_iters=3)), tmp_path).run.rows()
    assert rows[-1].other_cpu == 0
