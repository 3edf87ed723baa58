"""Run folders, and files in them, that are renamed, removed or replaced during training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minigpt.errors import RunError, WriteError
from minigpt.reading import load_experiment
from minigpt.run import MetricsRow, RunFolder, checkpoint
from minigpt.run.place import Place
from minigpt.training import TensorBoardObserver, resume, train
from tests.conftest import Command
from tests.soak.children import differences
from tests.training.conftest import Watcher, Write, run


class Doing(Watcher):
    """Calls an action after the n-th update, in place of another program."""

    def __init__(self, at: int, action: Callable[[], object]):
        super().__init__()
        self.at, self.action = at, action

    def updated(self, row: MetricsRow) -> None:
        super().updated(row)
        if row.step == self.at:
            self.action()


def folder(root: Path) -> Path:
    return root / "runs" / "small" / "seed-1337"


@pytest.mark.parametrize("at", [7, 14])
def test_a_renamed_folder_is_saved_in_its_new_place_which_is_named(
    at: int, write_experiment: Write, undisturbed: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """The folder is renamed before the first checkpoint, or just before an evaluation."""
    old, new = folder(tmp_path), tmp_path / "other" / "it's here"
    new.parent.mkdir()
    with pytest.raises(RunError) as error:
        run(load_experiment(write_experiment()), tmp_path / "runs", Doing(at, lambda: old.rename(new)))
    assert f"{old} was moved to {new} while it trained; update {at + 1} is saved there" in str(error.value)
    assert not old.exists(), "the old path is not created again"
    assert not (tmp_path / "runs").exists(), "nor is a lock left there"
    assert resume(new, observer=Watcher()).status == "finished"
    assert not differences(undisturbed(), RunFolder(new))


def test_a_folder_above_it_may_be_renamed_too(write_experiment: Write, tmp_path: Path) -> None:
    action = (tmp_path / "runs").rename
    with pytest.raises(RunError, match="was moved to .*/kept/small/seed-1337 while it trained"):
        run(load_experiment(write_experiment()), tmp_path / "runs", Doing(7, lambda: action(tmp_path / "kept")))
    assert not (tmp_path / "runs").exists()
    assert checkpoint.available(tmp_path / "kept" / "small" / "seed-1337" / "checkpoints") == [8]


def test_another_folder_in_its_place_is_left_alone(write_experiment: Write, tmp_path: Path) -> None:
    old = folder(tmp_path)

    def exchange() -> None:
        old.rename(tmp_path / "kept")
        old.mkdir()

    with pytest.raises(RunError, match=f"was moved to {tmp_path / 'kept'} while it trained"):
        run(load_experiment(write_experiment()), tmp_path / "runs", Doing(7, exchange))
    assert not list(old.iterdir())


def test_a_removed_folder_ends_the_run_with_a_line(
    write_experiment: Write, tmp_path: Path, minigpt: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, place = write_experiment(), folder(tmp_path)
    monkeypatch.setattr("minigpt.cli.display.PlainObserver", lambda: Doing(14, lambda: shutil.rmtree(place)))
    code, _, err = minigpt("run", file, "--no-check")
    assert code == 2
    assert len([line for line in err.splitlines() if not line.startswith("plugin: ")]) == 1, err
    assert "runs/small/seed-1337 was moved, removed or unmounted while it trained" in err
    assert "its last checkpoint is of update 10" in err
    assert not place.exists()


def test_if_the_new_place_is_unknown_the_old_path_is_not_created_again(
    write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new place is unknown after unmounting, or on a system without /proc."""
    old, new = folder(tmp_path), tmp_path / "new"
    monkeypatch.setattr(os, "readlink", lambda path: str(old))
    with pytest.raises(RunError, match="Wherever it is, its last checkpoint is of update 10; continue with: minigpt resume"):
        run(load_experiment(write_experiment()), tmp_path / "runs", Doing(12, lambda: old.rename(new)))
    assert not old.exists()
    assert checkpoint.available(new / "checkpoints") == [10]


def test_a_move_in_the_middle_of_a_save_is_noticed_too(
    write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, real = folder(tmp_path), tmp_path / "new", checkpoint.save

    def save(*arguments: object, **others: object) -> Path:
        if old.exists():
            old.rename(new)
        return real(*arguments, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save", save)
    with pytest.raises(RunError, match=f"was moved to {new} while it trained; update 10 is saved there"):
        run(load_experiment(write_experiment()), tmp_path / "runs")
    assert not old.exists()


def test_tensorboard_does_not_make_the_old_path_again(write_experiment: Write, tmp_path: Path) -> None:
    experiment, old = load_experiment(write_experiment()), folder(tmp_path)
    observer = TensorBoardObserver(Doing(17, lambda: old.rename(tmp_path / "new")))
    with pytest.raises(RunError, match="was moved to"):
        train(experiment, out=tmp_path / "runs", device="cpu", observer=observer)
    assert not old.exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt", "checkpoints"])
def test_records_deleted_during_training_are_written_again(
    name: str, write_experiment: Write, undisturbed: Callable[..., RunFolder], tmp_path: Path
) -> None:
    place = folder(tmp_path) / name
    watcher = Doing(17, lambda: shutil.rmtree(place) if place.is_dir() else place.unlink())
    outcome = run(load_experiment(write_experiment()), tmp_path / "runs", watcher)
    assert outcome.status == "finished"
    assert not differences(undisturbed(), outcome.run)
    if name != "checkpoints":
        assert f"{place} was deleted while the run wrote to it; it is written again" in watcher.out.getvalue()


def test_a_run_that_could_not_be_resumed_ends_with_an_error(write_experiment: Write, tmp_path: Path) -> None:
    action = (folder(tmp_path) / "experiment.json").unlink
    expected = r"was changed while it trained: its experiment.json was removed. .* its last checkpoint is of update 15"
    with pytest.raises(RunError, match=expected):
        run(load_experiment(write_experiment()), tmp_path / "runs", Doing(17, action))


def test_a_link_in_the_place_of_the_checkpoints_is_not_written_through(write_experiment: Write, tmp_path: Path) -> None:
    place, target = folder(tmp_path) / "checkpoints", tmp_path / "target"
    target.mkdir()

    def action() -> None:
        shutil.rmtree(place)
        place.symlink_to(target)

    with pytest.raises(RunError, match="checkpoints was replaced by a link"):
        run(load_experiment(write_experiment()), tmp_path / "runs", Doing(17, action))
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt"])
@pytest.mark.parametrize("how", ["replaced", "cut"])
def test_records_that_are_replaced_or_cut_during_training_end_the_run(
    name: str, how: str, write_experiment: Write, tmp_path: Path
) -> None:
    place = folder(tmp_path) / name

    def action() -> None:
        if how == "replaced":
            place.unlink()
            place.write_text("{}\n")
        else:
            os.truncate(place, 10)

    with pytest.raises(RunError, match=f"{name} was replaced or changed while the run wrote to it"):
        run(load_experiment(write_experiment()), tmp_path / "runs", Doing(17, action))
    assert checkpoint.available(folder(tmp_path) / "checkpoints")[-1] == 15


def test_a_deleted_lock_file_does_not_admit_another_process(write_experiment: Write, tmp_path: Path) -> None:
    place, refusals = folder(tmp_path), []

    def action() -> None:
        (place.parent / ".seed-1337.lock").unlink()
        with pytest.raises(RunError) as error:
            resume(place, observer=Watcher())
        refusals.append(str(error.value))

    outcome = run(load_experiment(write_experiment()), tmp_path / "runs", Doing(17, action))
    assert outcome.status == "finished"
    assert refusals == [f"{place} is in use by another process, whose lock file was removed; stop it first"]


def test_a_moved_folder_does_not_admit_another_process_while_it_trains(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with Place(tmp_path / "old") as place:
        (tmp_path / "old").rename(tmp_path / "new")
        assert place.has_moved()
        assert place.now() == tmp_path / "new"
        with pytest.raises(RunError, match="is in use by another process"), Place(tmp_path / "new"):
            pass
    with Place(tmp_path / "new") as place:
        assert not place.has_moved()


def test_a_folder_that_became_read_only_ends_the_run_and_the_last_whole_checkpoint_is_named(
    write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def refuse(path: str | Path, *arguments: object, **others: object) -> None:
        if "step-00000020" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *arguments, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(WriteError, match=r"Permission denied; the checkpoint of step 15 is intact. When that is fixed"):
        run(load_experiment(write_experiment()), tmp_path / "runs")
