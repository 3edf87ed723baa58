"""Tests that a run can be read while it saves, without a false report of damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minigpt.errors import CheckpointError
from minigpt.run import checkpoint
from tests.run.checkpoints import save


def saving_meanwhile(monkeypatch: pytest.MonkeyPatch, root: Path, times: int, best: bool) -> list[int]:
    """Save twice between reading a pointer and reading its checkpoint, the given number of times."""
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
def test_loading_is_tried_again_if_the_checkpoint_was_removed_meanwhile(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, best=which == "best")
    saving_meanwhile(monkeypatch, tmp_path, times=3, best=which == "best")
    found = checkpoint.load(tmp_path, which)
    assert found is not None
    assert found.progress.step == 7, "the newest checkpoint, not an older one"
    assert not found.notes


def test_loading_fails_if_the_run_saves_during_every_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, best=True)
    steps = saving_meanwhile(monkeypatch, tmp_path, times=100, best=True)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path, "best")
    assert len(steps) == 10, "two saves in each of five attempts"


def test_a_step_that_is_removed_meanwhile_is_reported_with_the_available_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, best=True)
    saving_meanwhile(monkeypatch, tmp_path, times=1, best=True)
    with pytest.raises(CheckpointError, match="has no checkpoint of step 1; available: 2, 3"):
        checkpoint.load(tmp_path, "1")


def test_damage_without_a_save_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (save(tmp_path, 1, best=True) / "model.safetensors").unlink()
    reads, real = [], checkpoint._read
    monkeypatch.setattr(checkpoint, "_read", lambda path, model: (reads.append(path), real(path, model))[1])
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path, "best")
    assert len(reads) == 1


def test_after_a_damaged_checkpoint_the_records_match_the_continued_one(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step, metrics_bytes=step)
    assert checkpoint.recorded(tmp_path).metrics_bytes == 2
    checkpoint.point_at(tmp_path, tmp_path / "step-00000001")
    assert checkpoint.recorded(tmp_path).metrics_bytes == 1
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.progress.step == 1
