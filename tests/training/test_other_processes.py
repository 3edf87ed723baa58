"""What others take of the processors is recorded beside a run's own times."""

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
    """/proc/stat of a machine that has computed for so many seconds, a part of it for another guest of its host."""
    ticks = [round(100 * seconds) for seconds in (busy - 4, 1, 1, idle, idle, 0.5, 0.5, 1, 7, 7)]
    file.write_text(f"cpu  {' '.join(map(str, ticks))}\ncpu0 1 2 3\n")


@pytest.fixture
def proc_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /proc/stat, and this process has computed nothing."""
    file = tmp_path / "stat"
    stat(file, 100)
    monkeypatch.setattr(other_processes, "_STAT", file)
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    return file


def test_what_the_machine_computed_less_what_this_process_did_is_that_of_others(
    proc_stat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = OtherProcesses()
    stat(proc_stat, 103, idle=50)
    monkeypatch.setattr(time, "process_time", lambda: 2.0)
    assert others.seconds() is None, "a quarter of a second has not passed yet"
    assert others.seconds(now=True) == pytest.approx(1.0)
    assert others.seconds(now=True) == pytest.approx(0.0), "from the last answer on"


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
def test_where_the_system_does_not_say_nothing_is_recorded(proc_stat: Path, content: str | None) -> None:
    proc_stat.unlink() if content is None else proc_stat.write_text(content)
    assert OtherProcesses().seconds(now=True) is None


@pytest.mark.usefixtures("proc_stat")
def test_a_run_records_it_at_its_end_at_least(write_experiment: Write, tmp_path: Path) -> None:
    rows = run(load_experiment(write_experiment(max_iters=3)), tmp_path).run.rows()
    assert rows[-1].other_cpu == 0
