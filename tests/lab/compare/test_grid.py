from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from minigpt.data import load_corpus
from minigpt.errors import MinigptError, RunError
from minigpt.lab.compare import grid as grid_module
from minigpt.lab.compare import running as running_module
from minigpt.lab.compare.blocks import measure
from minigpt.lab.compare.plan import ComparisonPlan, Settings, make_plan
from minigpt.lab.compare.tables import basis
from minigpt.run import RunFolder, open_run
from minigpt.system.lock import held
from minigpt.training import resume
from tests.lab.compare.conftest import Write, train_here
from tests.training.conftest import INTERRUPTING, Watcher

CRASHING = '''
from minigpt import register
from minigpt.contracts import Schedule

@register("schedule", "crashing")
class Crashing(Schedule):
    """Constant, until it fails."""
    def __init__(self, max_iters: int, *, at: int = 3):
        self.at = at
    def factor(self, step: int) -> float:
        if step == self.at:
            raise RuntimeError("boom")
        return 1.0
'''


HANGING = '''
import time
from pathlib import Path
from minigpt import register
from minigpt.contracts import Schedule

@register("schedule", "hanging")
class Hanging(Schedule):
    """Constant, until it hangs."""
    def __init__(self, max_iters: int):
        pass
    def factor(self, step: int) -> float:
        while step == 3:
            Path("hangs").touch()
            time.sleep(0.1)
        return 1.0
'''


def plan(*files: Path, **settings: Any) -> ComparisonPlan:
    return make_plan(files, Settings(**{"noise": False, **settings}))


def test_a_trained_run_is_not_trained_again(write: Write) -> None:
    files = write("base"), write("variant", model={"ffn": "glu"})
    first = plan(*files, seeds=2)
    assert [(cell.variant.name, cell.seed) for cell in first.grid.missing()] == [
        ("base", 5),
        ("variant", 5),
        ("base", 6),
        ("variant", 6),
    ], "pairs come early"
    train_here(first.grid)
    before = {file: file.stat().st_mtime_ns for file in first.folder.rglob("metrics.jsonl")}
    assert len(before) == 4
    again = plan(*files, seeds=3)
    assert [(cell.variant.name, cell.seed) for cell in again.grid.missing()] == [("base", 7), ("variant", 7)]
    results = first.judge().variants
    assert [len(result.losses) for result in results] == [2, 2]
    assert before == {file: file.stat().st_mtime_ns for file in first.folder.rglob("metrics.jsonl")}


def test_two_processes_cannot_train_the_same_grid(write: Write) -> None:
    found = plan(write("base"), write("variant", model={"ffn": "glu"}), seeds=1)
    with held(found.folder), pytest.raises(RunError, match=r"comparisons/base is in use by process \d+; wait for it"):
        found.grid.run(Mock(), jobs=1, device="cpu", threads=None)
    assert not (found.folder / "runs").exists()


def test_a_changed_experiment_is_another_cell_and_the_old_run_is_kept(write: Write) -> None:
    train_here(plan(write("base"), write("variant"), seeds=1).grid)
    changed = plan(write("base"), write("variant", model={"ffn": "glu"}), seeds=1)
    (cell,) = changed.grid.missing()
    assert cell.variant.name == "variant"
    train_here(changed.grid)
    assert RunFolder(cell.run.path).experiment().model.ffn.name == "glu"
    assert len(list((changed.folder / "runs/variant").glob("seed-5.old-*"))) == 1


def test_finished_runs_in_other_folders_are_used_in_place(write: Write, minigpt: Any) -> None:
    base = write("base")
    assert minigpt("run", base, "--no-check")[0] == 0
    found = plan(base, write("variant", model={"ffn": "glu"}), seeds=2)
    places = {(cell.variant.name, cell.seed): cell.run.path for cell in found.grid.cells}
    assert places["base", 5] == Path("runs/base/seed-5")
    assert places["base", 6] == found.folder / "runs/base/seed-6"
    train_here(found.grid)
    assert not (found.folder / "runs/base/seed-5").exists()
    assert [run.path for run in found.grid.earlier(found.variants[0])] == [Path("runs/base/seed-5")]
    again = plan(base, Path("variant.json"), seeds=1).grid
    assert [run.path.name for run in again.earlier(again.variants[1])] == ["seed-5", "seed-6"], "whatever their seed"
    assert found.judge().variants[0].runs[0].run == "runs/base/seed-5"


def test_runs_of_other_code_are_not_used(write: Write, minigpt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base, variant = write("base"), write("variant")
    assert minigpt("run", base, "--no-check")[0] == 0
    now = grid_module.provenance
    monkeypatch.setattr(
        grid_module, "provenance", lambda *args, **kwargs: now(*args, **kwargs).model_copy(update={"core": "other"})
    )
    assert all("comparisons" in str(cell.run.path) for cell in plan(base, variant, seeds=1).grid.cells)


def test_a_run_that_was_begun_is_continued(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "interrupting.py").write_text(INTERRUPTING)
    changes: dict[str, Any] = {"plugins": ["interrupting.py"], "training": {"schedule": "interrupting"}}
    files = write("base", **changes), write("variant", model={"ffn": "glu"}, **changes)
    whole, halved = plan(*files, seeds=1), make_plan(files, Settings(noise=False, seeds=1), name="halved")
    train_here(whole.grid)
    monkeypatch.setenv("END_AT", "4")
    monkeypatch.setenv("END_BY", "SIGTERM")
    with pytest.raises(SystemExit) as stopped:
        train_here(halved.grid)
    assert stopped.value.code == 143
    monkeypatch.delenv("END_AT")
    begun = halved.grid.cells[0]
    assert 0 < len(begun.run.rows()) < 6
    assert begun.outcome() is None, "a stopped run has no outcome"
    train_here(halved.grid)
    assert not list((halved.folder / "runs/base").glob("seed-5.old-*"))
    assert [row.step for row in begun.run.rows()] == [1, 2, 3, 4, 5, 6]
    assert [result.losses for result in whole.judge().variants] == [result.losses for result in halved.judge().variants]


def test_the_grid_waits_for_a_run_that_a_killed_grid_is_still_saving(write: Write) -> None:
    found = plan(write("base"), write("variant"), seeds=1)
    cell = found.grid.cells[0]

    def hold() -> None:
        with cell.run.locked():
            held.set()
            time.sleep(1)

    held = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    train_here(found.grid)
    holder.join()
    outcome = cell.outcome()
    assert outcome is not None
    assert outcome.outcome == "finished"


def test_the_grid_waits_for_a_run_from_before_an_edit_that_is_still_being_saved(write: Write) -> None:
    train_here(plan(write("base"), write("variant"), seeds=1).grid)
    shorter = {"training": {"max_iters": 4}}
    edited = plan(write("base", **shorter), write("variant", **shorter), seeds=1).grid
    holding = edited.cells[0].run.locked()
    holding.__enter__()
    threading.Timer(1, lambda: holding.__exit__(None, None, None)).start()
    train_here(edited)
    assert [row.step for row in edited.cells[0].run.rows()] == [1, 2, 3, 4]


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_variant_that_hangs(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    hanging = write("hanging", plugins=["hanging.py"], training={"schedule": "hanging"})
    found = plan(write("base"), hanging, seeds=1)
    cell = found.grid.cells[1]
    monkeypatch.setattr(running_module, "SAVES_WITHIN", 1.0)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        while not Path("hangs").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        interrupted.append(time.monotonic())

    interrupted: list[float] = []
    user = threading.Thread(target=interrupt, daemon=True)
    user.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            found.grid.run(Mock(), jobs=2, device="cpu", threads=1, patience=120)
    finally:
        signal.signal(signal.SIGINT, ours)
    user.join()
    assert time.monotonic() - interrupted[0] < 10
    assert cell.outcome() is None, "a stopped run has no outcome"
    assert not cell.run.is_in_use(), "its process has ended"


def test_a_crash_or_divergence_is_an_outcome_and_the_other_variants_continue(write: Write, tmp_path: Path) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    crashing = write("crashing", plugins=["crashing.py"], training={"schedule": "crashing"})
    diverging = write("diverging", training={"optimizer": {"name": "sgd", "learning_rate": 1e30}, "grad_clip": None})
    found = plan(write("base"), crashing, diverging, write("same"), write("wide", model={"d_model": 32}), seeds=3)
    train_here(found.grid)
    by_name = {result.name: result for result in found.judge().variants}
    assert by_name["crashing"].verdict == "crashed"
    assert by_name["crashing"].runs[0].message == "RuntimeError: boom"
    assert by_name["diverging"].verdict == "diverged"
    assert "not finite" in by_name["diverging"].runs[0].message
    assert by_name["same"].verdict == "equivalent within 0.01"
    assert by_name["wide"].difference is not None
    assert by_name["wide"].difference.family == 2, "failed variants are not in the correction"
    assert "corrected for 2 variants (Bonferroni): all intervals hold jointly" in basis(found.judge())
    assert (by_name["wide"].cost.total or 0) > 2 * (by_name["base"].cost.total or 0) > 0
    assert not found.grid.missing(), "an outcome is not tried again"


def flip(file: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["checkpoints/step-00000006/model.safetensors", "tokenizer.json", "metrics.jsonl"])
def test_a_damaged_run_that_nobody_named_is_ignored(name: str, write: Write, minigpt: Any) -> None:
    base, variant = write("base"), write("variant", model={"ffn": "glu"})
    assert minigpt("run", base, "--no-check")[0] == 0
    flip(Path("runs/base/seed-5") / name)
    found = plan(base, variant, seeds=1)
    assert found.grid.cells[0].run.path == found.folder / "runs/base/seed-5"
    assert len(found.grid.missing_runs()) == 2
    train_here(found.grid)
    assert [cell.status() for cell in found.grid.cells] == ["finished", "finished"]


def test_another_run_with_the_same_identity_replaces_a_damaged_one(write: Write, minigpt: Any) -> None:
    base, variant = write("base"), write("variant", model={"ffn": "glu"})
    assert minigpt("run", base, "--no-check")[0] == 0
    assert minigpt("run", base, "--no-check", "--name", "z")[0] == 0
    flip(Path("runs/base/seed-5/checkpoints/step-00000006/model.safetensors"))
    assert plan(base, variant, seeds=1).grid.cells[0].run.path == Path("runs/z/seed-5")


@pytest.mark.parametrize("which", ["checkpoints/step-00000006/model.safetensors", "checkpoints/*/model.safetensors"])
def test_a_damaged_run_of_the_comparison_itself_is_set_aside_and_trained_again(write: Write, which: str) -> None:
    files = write("base"), write("variant", model={"ffn": "glu"})
    found = plan(*files, seeds=1)
    train_here(found.grid)
    cell = found.grid.cells[0]
    for file in cell.run.path.glob(which):
        flip(file)
    assert not plan(*files, seeds=1).grid.missing(), "a measured run needs no weights"
    cell.record.unlink()
    again = plan(*files, seeds=1)
    assert [each.name for each in again.grid.missing_runs()] == [cell.name]
    train_here(again.grid)
    assert cell.status() == "finished"
    assert cell.run.path.with_name("seed-5.old-1").is_dir()


CRASHING_ONCE = CRASHING.replace(
    "if step == self.at:", "import pathlib\n        if step == self.at and pathlib.Path('fails').exists():"
)


def test_a_crashed_cell_that_was_continued_by_hand_has_the_outcome_of_its_run(write: Write) -> None:
    Path("crashing.py").write_text(CRASHING_ONCE)
    Path("fails").touch()
    files = write("base"), write("crashing", plugins=["crashing.py"], training={"schedule": "crashing"})
    found = plan(*files, seeds=1)
    train_here(found.grid)
    cell = found.grid.cells[1]
    assert cell.status() == "crashed"
    assert not plan(*files, seeds=1).grid.missing(), "a crashed run is not tried again"
    Path("fails").unlink()
    resume(cell.run.path, observer=Watcher())
    again = plan(*files, seeds=1)
    assert [each.name for each in again.grid.missing()] == [cell.name]
    assert not again.grid.missing_runs(), "only the loss by position is to be measured"
    assert again.judge().variants[1].runs[0].outcome == "stopped", "until then"
    train_here(again.grid)
    assert cell.status() == "finished"
    assert again.judge().variants[1].runs[0].loss == cell.run.rows()[-1].val_loss


def test_existing_runs_are_counted_but_not_in_the_time_estimate(write: Write, minigpt: Any) -> None:
    base, variant = write("base"), write("variant", model={"ffn": "glu"})
    for file in (base, variant):
        assert minigpt("run", file, "--no-check")[0] == 0
    code, output, _ = minigpt("compare", base, variant, "--seeds", "1", "--no-noise", "--plan")
    assert code == 0
    assert "2 runs, 2 exist already" in output
    assert "2 finished runs still to be measured (loss by position and by block of text)" in output
    assert "to train" not in output
    assert plan(base, variant, seeds=1).seconds() == (0, 0, 0)
    output = minigpt("compare", base, variant, "--seeds", "1..3", "--no-noise", "--plan")[1]
    assert "seed 5, up to 7 if there is no verdict: 2 runs, 2 exist already" in output
    assert "0 runs to train; up to 4 if verdicts are missing: about" in output
    output = minigpt("compare", base, variant, "--seeds", "2", "--no-noise", "--plan")[1]
    assert "4 runs, 2 exist already" in output
    assert "2 runs to train: about" in output


def test_a_record_of_another_format_is_measured_again(write: Write) -> None:
    files = write("base"), write("variant", model={"ffn": "glu"})
    found = plan(*files, seeds=1)
    train_here(found.grid)
    record = found.grid.cells[0].record
    record.write_text(json.dumps({**json.loads(record.read_text()), "format": 1}))
    assert [cell.name for cell in found.grid.missing()] == ["base, seed 5"]
    assert not found.grid.missing_runs(), "it is not trained again"

    record.write_text(json.dumps({**json.loads(record.read_text()), "format": 2, "outcome": "running"}))
    with pytest.raises(RunError, match=r"base-seed-5.json is damaged; remove it; then the run is examined again"):
        found.grid.missing()


def test_bits_per_byte_of_data_that_is_not_text_are_refused_before_training(write: Write) -> None:
    plugin = Path(__file__).parents[3] / "plugins/associative_recall.py"
    changes: dict[str, Any] = {"plugins": [str(plugin)], "data": {"name": "associative_recall"}, "model": {"block_size": 64}}
    files = write("base", **changes), write("variant", **changes)
    with pytest.raises(MinigptError, match=r"--unit bits-per-byte: the validation data of base, variant is not text"):
        plan(*files, seeds=1, unit="bits-per-byte")


def test_named_runs_are_compared_over_their_shared_seeds(write: Write, minigpt: Any) -> None:
    for name, seeds in (("base", (1, 2, 3)), ("variant", (2, 3, 4))):
        file = write(name, model={"ffn": "glu"} if name == "variant" else {})
        for seed in seeds:
            assert minigpt("run", file, "--no-check", "--seed", seed)[0] == 0
    found = plan(Path("runs/base"), Path("runs/variant"))
    assert found.grid.seeds == [2, 3]
    assert {str(cell.run.path) for cell in found.grid.cells} == {
        f"runs/{name}/seed-{seed}" for name in ("base", "variant") for seed in (2, 3)
    }
    with pytest.raises(MinigptError, match=r"--budget changes variants, but runs/variant is trained already"):
        plan(Path("runs/base"), Path("runs/variant"), budget="tokens")
    with pytest.raises(MinigptError, match=r"the runs share no seed.*base \[1\]; variant \[4\]"):
        plan(Path("runs/base/seed-1"), Path("runs/variant/seed-4"))
    Path("corpus.txt").write_text("something else. " * 200)
    with pytest.raises(MinigptError, match=r"was trained on data with the fingerprint [0-9a-f]{12}, but its"):
        plan(Path("runs/base"), Path("runs/variant"))


@pytest.mark.parametrize("data", ["text", "rows"])
def test_the_mean_of_the_loss_by_position_is_the_validation_loss(write: Write, minigpt: Any, data: str) -> None:
    changes: dict[str, Any] = {}
    if data == "rows":
        plugin = Path(__file__).parents[3] / "plugins/associative_recall.py"
        changes = {"plugins": [str(plugin)], "data": {"name": "associative_recall"}, "model": {"block_size": 64}}
    file = write("base", **changes)
    assert minigpt("run", file, "--no-check")[0] == 0
    opened = open_run("runs/base/seed-5", which="last")
    corpus = load_corpus(opened.experiment)
    measured = measure(opened.model, corpus, opened.experiment)
    each = measured.position_loss
    length = opened.experiment.model.block_size
    assert len(each) == length
    counts = torch.zeros(length)
    for batch in corpus.val.windows(7, length):
        mask = torch.ones_like(batch.targets) if batch.mask is None else batch.mask
        counts[: mask.shape[1]] += mask.sum(0)
    assert [value is None for value in each] == [count == 0 for count in counts.tolist()]
    mean = sum(value * count for value, count in zip(each, counts.tolist(), strict=True) if value is not None) / counts.sum()
    recorded = RunFolder(Path("runs/base/seed-5")).rows()[-1].val_loss
    assert math.isclose(mean, recorded, rel_tol=1e-5)
    assert math.isclose(sum(measured.blocks.losses), recorded * counts.sum(), rel_tol=1e-5)
    assert sum(measured.blocks.targets) == counts.sum()


def test_the_written_json_contains_all_results(write: Write) -> None:
    found = plan(write("base"), write("variant", model={"ffn": "glu"}), seeds=3)
    train_here(found.grid)
    found.write(found.judge())
    document = json.loads((found.folder / "comparison.json").read_text())
    assert document["settings"]["seeds"] == [5, 6, 7]
    base, variant = document["variants"]
    assert base["difference"] is None
    low, high = variant["difference"]["interval"]
    assert low < variant["difference"]["mean"] < high
    assert variant["mean"] - base["mean"] == pytest.approx(variant["difference"]["mean"])
    over_text = variant["difference"]["text_interval"]
    assert (over_text["kind"], len(over_text["blocks"])) == ("windows", 15)
    assert over_text["bounds"][0] < variant["difference"]["mean"] < over_text["bounds"][1]
