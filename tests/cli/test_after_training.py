"""The check of the trained model at the end of a run: its line, its exit code, its record, and who shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minigpt.run import RunFolder
from minigpt.training import loop
from tests import dishonest, tiny
from tests.conftest import Command

VIOLATED = "the trained model violates targets: the loss at position "


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run() -> Path:
    """The only run below the working folder."""
    (run,) = Path("runs").glob("*/seed-*")
    return run


def _words(output: str) -> str:
    """The output without its line breaks."""
    return " ".join(output.split())


def test_a_dishonest_model_gives_one_line_and_exit_code_1_and_is_kept(minigpt: Command, folder: Path) -> None:
    code, out, err = minigpt("run", dishonest.write(folder))
    run = RunFolder(_run())
    assert code == 1
    assert [line for line in err.splitlines() if "error" in line] == [err.splitlines()[-1]]
    assert VIOLATED in err
    assert f"To see it: minigpt check {run.path} --only targets" in err
    assert f"run folder: {run.path}" in out
    assert run.is_finished()
    assert run.status() == "violated"
    assert run.stamp().startswith("checked at update 4: violated: targets: the loss at position ")
    (row,) = json.loads(minigpt("runs", "--json")[1])
    assert (row["state"], row["check"]) == ("violated", run.stamp())
    assert run.stamp() in _words(minigpt("runs")[1])
    assert f"trained model: {run.stamp()}" in minigpt("show", run.path)[1]
    code, out, _ = minigpt("check", run.path, "--only", "targets")
    assert (code, "breaks targets: The validation loss is the mean over each target once" in _words(out)) == (1, True)
    assert minigpt("generate", run.path, "--max-new-tokens", "1")[0] == 0

    code, _, err = minigpt("resume", run.path, "--set", "training.max_iters=6")
    assert (code, VIOLATED in err) == (1, True)
    assert run.stamp().startswith("checked at update 6: violated")
    assert minigpt("resume", run.path, "--set", "training.max_iters=8", "--no-check")[0] == 0
    assert (run.stamp(), run.status()) == ("not checked", "finished")


def test_an_honest_model_is_checked_and_the_training_is_the_same_without(minigpt: Command, folder: Path) -> None:
    file = tiny.write(folder)
    code, out, err = minigpt("run", file, "--name", "checked")
    assert code == 0, err
    assert "checked the trained model in" in out
    assert minigpt("run", file, "--name", "plain", "--no-check")[0] == 0
    checked, plain = (RunFolder(next(Path("runs", name).glob("seed-*"))) for name in ("checked", "plain"))
    assert (checked.stamp(), plain.stamp()) == ("checked at update 4: holds", "not checked")
    assert checked.identity() == plain.identity()
    losses = [[(row.train_loss, row.val_loss) for row in run.rows()] for run in (checked, plain)]
    assert losses[0] == losses[1]
    tensors = [sorted(path.read_bytes() for path in run.checkpoints.rglob("*.safetensors")) for run in (checked, plain)]
    assert tensors[0] == tensors[1]
    assert "finished, not checked" in _words(minigpt("runs")[1])
    assert minigpt("check", plain.path, "--only", "stepwise")[0] == 0
    assert plain.stamp() == "not checked", "a part of the check is no check"
    code, out, err = minigpt("check", plain.path)
    assert code == 0, err
    assert "reproduced" in out
    assert plain.stamp() == "checked at update 4: holds"


def test_a_recorded_loss_that_the_saved_model_does_not_have_is_a_violation(
    minigpt: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = loop.evaluate

    def flattering(*arguments: object) -> object:
        measured = measure(*arguments)  # type: ignore[arg-type]
        return type(measured)(measured.val_loss - 0.1, measured.val_perplexity, measured.val_bits_per_byte)

    monkeypatch.setattr(loop, "evaluate", flattering)
    assert minigpt("run", tiny.write(folder), "--no-check")[0] == 0
    code, out, _ = minigpt("check", _run())
    assert code == 1
    assert "breaks reproduced: The model that was saved has the validation loss that was recorded." in _words(out)
    assert "violated" in minigpt("runs")[1]


def test_a_run_whose_data_are_missing_or_others_cannot_be_checked(minigpt: Command, folder: Path) -> None:
    assert minigpt("run", tiny.write(folder), "--no-check")[0] == 0
    (folder / "corpus.txt").write_text(tiny.TEXT[::-1])
    code, out, _ = minigpt("check", _run(), "--json")
    notes = {result["note"] for result in json.loads(out)["targets"][0]["results"]}
    assert (code, notes) == (2, {f"{_run()} was trained on other data than its experiment gives on this machine"})
    assert RunFolder(_run()).stamp() == "not checked"


def test_a_damaged_or_removed_record_is_reported(minigpt: Command, folder: Path) -> None:
    assert minigpt("run", dishonest.write(folder))[0] == 1
    record = _run() / "check.json"
    whole = record.read_bytes()
    for content in (whole.replace(b"fail", b"pass"), None):
        record.unlink() if content is None else record.write_bytes(content)
        (row,) = json.loads(minigpt("runs", "--json")[1])
        assert (row["state"], "check.json" in row["problem"]) == ("damaged", True)
    record.write_bytes(whole)
    assert RunFolder(record.parent).status() == "violated"


def test_a_run_with_other_settings_is_checked_as_an_experiment_with_fresh_weights(minigpt: Command, folder: Path) -> None:
    assert minigpt("run", tiny.write(folder), "--no-check")[0] == 0
    code, out, err = minigpt("check", _run(), "--set", "model.n_layers=2", "--only", "shape", "--json")
    assert code == 0, err
    assert json.loads(out)["targets"][0]["family"] == "experiment"
