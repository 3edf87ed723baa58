"""Checkpoints at time intervals: a slow model repeats few updates, and no update's result changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigpt.errors import ExperimentError
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run import MetricsRow, RunFolder, checkpoint
from minigpt.training import loop, resume, session
from tests.soak.children import differences
from tests.training.conftest import Watcher, Write, run, with_learning_rate

RARELY: dict[str, Any] = {"max_iters": 14, "eval_interval": 14, "checkpoint_interval": 14}


class Clock:
    """A clock that advances by a minute each time it is read."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 60
        return self.seconds


@pytest.fixture
def a_minute_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(loop.Trainer):
        def __init__(self, *arguments: Any, **others: Any):
            super().__init__(*arguments, **others, clock=Clock())

    monkeypatch.setattr(session, "Trainer", Slow)


def saves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which every later save adds its step."""
    steps, real = [], checkpoint.save

    def save(*arguments: Any, **others: Any) -> Path:
        steps.append(arguments[3].step)
        return real(*arguments, **others)

    monkeypatch.setattr(checkpoint, "save", save)
    return steps


@pytest.mark.usefixtures("a_minute_an_update")
def test_a_checkpoint_is_saved_when_the_minutes_are_over(
    write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = saves(monkeypatch)
    run(load_experiment(write_experiment(**RARELY)), tmp_path / "a")
    assert steps == [5, 10, 14], "five minutes after the beginning, after a save, and at the end"
    steps.clear()
    run(load_experiment(write_experiment(**RARELY, checkpoint_minutes=None)), tmp_path / "b")
    assert steps == [14]


def test_a_fast_run_saves_only_by_updates(write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = saves(monkeypatch)
    run(load_experiment(write_experiment(**{**RARELY, "checkpoint_interval": 5})), tmp_path)
    assert steps == [5, 10, 14]


@pytest.mark.usefixtures("a_minute_an_update")
@pytest.mark.parametrize("optimizer", [entry.name for entry in REGISTRY.entries("optimizer")])
def test_an_updates_result_does_not_depend_on_earlier_saves(optimizer: str, write_experiment: Write, tmp_path: Path) -> None:
    named = with_learning_rate(optimizer)
    never, often = (
        run(
            load_experiment(write_experiment(optimizer=named, **RARELY, checkpoint_minutes=minutes)), tmp_path / str(minutes)
        )
        for minutes in (None, 1.0)
    )
    assert not differences(never.run, often.run)


@pytest.mark.usefixtures("a_minute_an_update")
def test_a_run_that_dies_after_a_save_by_time_resumes_bit_for_bit(
    write_experiment: Write, undisturbed: Callable[..., RunFolder], tmp_path: Path
) -> None:
    class Dies(Watcher):
        def updated(self, row: MetricsRow) -> None:
            if row.step == 9:
                raise KeyboardInterrupt  # has the effect of a kill: nothing is saved

    experiment = load_experiment(write_experiment(**RARELY))
    with pytest.raises(KeyboardInterrupt):
        run(experiment, tmp_path / "part", Dies())
    part = RunFolder.of(experiment, tmp_path / "part")
    assert checkpoint.available(part.checkpoints) == [5]
    assert resume(part.path, observer=Watcher()).status == "finished"
    assert not differences(undisturbed(**RARELY), part)


@pytest.mark.parametrize("value", [0, -1, "5"])
def test_minutes_are_a_number_above_zero(value: Any, write_experiment: Write) -> None:
    with pytest.raises(ExperimentError, match="checkpoint_minutes"):
        load_experiment(write_experiment(checkpoint_minutes=value))
