"""Whoever reads a run that is saving meanwhile gets a checkpoint, and no word of damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minigpt.errors import CheckpointError
from minigpt.run import checkpoint
from tests.run.test_checkpoint import save


def saving_meanwhile(monkeypatch: pytest.MonkeyPatch, root: Path, times: int, best: bool) -> list[int]:
    """Between the look at a pointer and the reading of what it names, two saves come: so often."""
    real, steps = checkpoint._read, []

    def read(path: Path, model: Any) -> Any:
        if len(steps) < 2 * times:
            newest = checkpoint.available(root)[-1]
            for step in (newest + 1, newest + 2):
                save(root, step, best=best)
                steps.append(step)
        return real(path, model)

    monkeypatch.setattr(checkpoint, "_read", read)
    return steps


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_checkpoint_that_is_removed_between_pointer_and_reading_is_looked_for_again(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, best=which == "best")
    saving_meanwhile(monkeypatch, tmp_path, times=3, best=which == "best")
    found = checkpoint.load(tmp_path, which)
    assert found is not None
    assert found.progress.step == 7, "the newest, and not an older one that was left"
    assert not found.notes


def test_a_run_that_never_holds_still_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, best=True)
    steps = saving_meanwhile(monkeypatch, tmp_path, times=100, best=True)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path, "best")
    assert len(steps) == 10, "two saves in each of five looks"


def test_a_step_that_is_removed_meanwhile_is_named_with_those_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, best=True)
    saving_meanwhile(monkeypatch, tmp_path, times=1, best=True)
    with pytest.raises(CheckpointError, match="has no checkpoint of step 1; available: 2, 3"):
        checkpoint.load(tmp_path, "1")


def test_damage_without_a_save_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (save(tmp_path, 1, best=True) / "model.safetensors").unlink()
    reads, real = [], checkpoint._read
    monkeypatch.setattr(checkpoint, "_read", lambda path, model: (reads.append(path), real(path, model))[1])
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path, "best")
    assert len(reads) == 1


def test_after_a_damaged_checkpoint_the_records_are_those_of_the_one_that_is_continued(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step, metrics_bytes=step)
    assert checkpoint.recorded(tmp_path).metrics_bytes == 2
    checkpoint.point_at(tmp_path, tmp_path / "step-00000001")
    assert checkpoint.recorded(tmp_path).metrics_bytes == 1
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.progress.step == 1
