"""Ctrl-C and SIGTERM in each phase of a training; tests/soak sends them at random moments, to real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt.reading import load_experiment
from minigpt.run import RunFolder, checkpoint
from minigpt.training import loop, preparing, resume, session
from tests.soak.children import differences
from tests.training.conftest import Watcher, Write, run


@pytest.fixture(autouse=True)
def _interrupts_arrive() -> Iterator[None]:
    """As in a terminal, wherever the tests run: a script's `pytest &` ignores SIGINT, and what is ignored stays ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signalling(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, at_call: int) -> None:
    """SIGINT comes in the n-th call of a function."""
    real, calls = getattr(place, name), [0]

    def call(*arguments: Any, **others: Any) -> Any:
        calls[0] += 1
        if calls[0] == at_call:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **others)

    monkeypatch.setattr(place, name, call)


@pytest.mark.parametrize("name", ["load_corpus", "build_model", "measure_speed", "provenance"])
def test_in_the_preparations_it_stops_at_once_and_nothing_is_written(
    name: str, write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(write_experiment())
    signalling(monkeypatch, preparing, name, 1)
    outcome = run(experiment, tmp_path / "runs")
    assert (outcome.status, outcome.stop_signal, outcome.progress.step) == ("stopped", signal.SIGINT, 0)
    assert not (tmp_path / "runs").exists(), "neither the run's folder nor a lock beside it"
    monkeypatch.undo()
    assert run(experiment, tmp_path / "runs").status == "finished"


@pytest.mark.parametrize("name", ["load_corpus", "measure_speed"])
def test_in_the_preparations_of_going_on_nothing_changes(
    name: str,
    write_experiment: Write,
    undisturbed: Callable[..., RunFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = load_experiment(write_experiment())
    part = run(experiment, tmp_path / "part", Watcher(("updated", 14))).run
    signalling(monkeypatch, preparing, name, 1)
    assert resume(part.path, observer=Watcher()).status == "stopped"
    monkeypatch.undo()
    assert resume(part.path, observer=Watcher()).status == "finished"
    assert not differences(undisturbed(), part)


# In the 40 updates of these runs, with their samples and their checkpoints.
PHASES = [("compute_gradients", 9), ("take_step", 15), ("evaluate", 2), ("prompt_ids", 2), ("stream_seed", 40)]


@pytest.mark.parametrize(("name", "at_call"), PHASES)
def test_in_an_update_an_evaluation_or_a_sample_what_is_done_is_saved(
    name: str,
    at_call: int,
    write_experiment: Write,
    undisturbed: Callable[..., RunFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = load_experiment(write_experiment())
    signalling(monkeypatch, loop, name, at_call)
    part = run(experiment, tmp_path / "part")
    monkeypatch.undo()
    assert (part.status, part.stop_signal) == ("stopped", signal.SIGINT)
    assert resume(part.run.path, observer=Watcher()).status == "finished"
    assert not differences(undisturbed(), part.run)


def test_while_saving_the_save_is_finished(write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment(write_experiment())
    signalling(
        monkeypatch, os, "replace", 6
    )  # owner, manifest, tokenizer, provenance, experiment, then the first checkpoint's
    part = run(experiment, tmp_path)
    assert part.status == "stopped"
    assert checkpoint.available(part.run.checkpoints)[-1] == part.progress.step == 10


def test_the_compiler_is_broken_off(
    write_experiment: Write, undisturbed: Callable[..., RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take minutes, and what it makes is made anew the next time."""
    experiment = load_experiment(write_experiment())

    class Compiling(loop.Trainer):
        def __init__(self, *arguments: Any, **others: Any):
            super().__init__(*arguments, **others)
            plain, self.compiles = self.loss, True

            def slowly(*batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
                if self.compiles:
                    signal.raise_signal(signal.SIGTERM)
                    time.sleep(60)
                return plain(*batch)

            self.loss = slowly

    monkeypatch.setattr(session, "Trainer", Compiling)
    began = time.monotonic()
    outcome = run(experiment, tmp_path / "part")
    assert time.monotonic() - began < 10
    assert (outcome.status, outcome.stop_signal, outcome.progress.step) == ("stopped", signal.SIGTERM, 0)
    monkeypatch.undo()
    assert resume(outcome.run.path, observer=Watcher()).status == "finished"
    assert not differences(undisturbed(), outcome.run)


TWICE = """
import signal, sys, threading, time
from minigpt.reading import load_experiment
from minigpt.training import PlainObserver, train

class Slow(PlainObserver):
    def updated(self, row):
        if row.step == 12:
            for _ in range(2):
                signal.raise_signal(signal.{name})
            time.sleep(60)

train(load_experiment(sys.argv[1]), out=sys.argv[2], device="cpu", observer=Slow())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_one_ends_the_process_at_once_and_harms_nothing(name: str, write_experiment: Write, tmp_path: Path) -> None:
    file = write_experiment()
    command = [sys.executable, "-c", TWICE.format(name=name), str(file), str(tmp_path / "part")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == -signal.Signals[name], done.stderr
    part = RunFolder(tmp_path / "part" / "small" / "seed-1337")
    assert resume(part.path, observer=Watcher()).status == "finished"
    assert not differences(run(load_experiment(file), tmp_path / "whole").run, part)
