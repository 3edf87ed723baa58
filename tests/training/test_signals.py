"""Ctrl-C and SIGTERM in each phase of training; tests/soak sends them to real processes at random moments."""

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
    """Handle SIGINT as in a terminal. A script's `pytest &` ignores SIGINT, and minigpt leaves ignored signals ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signalling(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, at_call: int) -> None:
    """Raise SIGINT in the n-th call of a function."""
    real, calls = getattr(place, name), [0]

    def call(*arguments: Any, **others: Any) -> Any:
        calls[0] += 1
        if calls[0] == at_call:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **others)

    monkeypatch.setattr(place, name, call)


@pytest.mark.parametrize("name", ["load_corpus", "build_trainable", "measure_speed", "provenance"])
def test_a_signal_during_the_preparations_stops_at_once_and_nothing_is_written(
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
def test_a_signal_during_the_preparations_to_resume_changes_nothing(
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


# A function, and the call in which the signal comes: all are within the 40 updates, samples and checkpoints of these runs.
PHASES = [("compute_gradients", 9), ("take_step", 15), ("evaluate", 2), ("prompt_ids", 2), ("stream_seed", 40)]


@pytest.mark.parametrize(("name", "at_call"), PHASES)
def test_a_signal_during_an_update_an_evaluation_or_a_sample_saves_the_updates_done(
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


def test_a_signal_during_a_save_does_not_interrupt_it(
    write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(write_experiment())
    # Five files are written before: owner, manifest, tokenizer, provenance and experiment. The sixth is the checkpoint's.
    signalling(monkeypatch, os, "replace", 6)
    part = run(experiment, tmp_path)
    assert part.status == "stopped"
    assert checkpoint.available(part.run.checkpoints)[-1] == part.progress.step == 10


def test_a_signal_interrupts_compiling(
    write_experiment: Write, undisturbed: Callable[..., RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling may take minutes, and the next session repeats it."""
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
def test_a_second_signal_ends_the_process_at_once_and_saved_files_stay_whole(
    name: str, write_experiment: Write, tmp_path: Path
) -> None:
    file = write_experiment()
    command = [sys.executable, "-c", TWICE.format(name=name), str(file), str(tmp_path / "part")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == -signal.Signals[name], done.stderr
    part = RunFolder(tmp_path / "part" / "small" / "seed-1337")
    assert resume(part.path, observer=Watcher()).status == "finished"
    assert not differences(run(load_experiment(file), tmp_path / "whole").run, part)
