"""Tests that a comparison uses only runs with the cell's identity and a single segment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from minigpt.errors import MinigptError, RunError
from minigpt.lab.compare import plan as plan_module
from minigpt.lab.compare.plan import ComparisonPlan, Settings, make_plan
from minigpt.run import RunFolder
from minigpt.training import resume
from tests.forging import forge_text
from tests.lab.compare.conftest import Write, train_here
from tests.training.conftest import Watcher


def plan(*files: Path, **settings: Any) -> ComparisonPlan:
    return make_plan(files, Settings(**{"seeds": 1, "device": "cpu", "noise": False, **settings}))


def places(found: ComparisonPlan) -> dict[str, str]:
    return {cell.variant.name: str(cell.run.path) for cell in found.grid.cells}


@pytest.mark.parametrize("other", [{"precision": "bf16"}, {"compile": True}])
def test_experiments_that_differ_only_in_precision_or_compile_are_different_cells(
    other: dict[str, Any], write: Write, minigpt: Any
) -> None:
    base, variant = write("base"), write("variant", training=other)
    assert minigpt("run", base, "--no-check")[0] == 0
    found = plan(base, variant)
    assert places(found) == {"base": "runs/base/seed-5", "variant": "comparisons/base/runs/variant/seed-5"}
    assert len({cell.key for cell in found.grid.cells}) == 2
    assert [result.difference for result in found.judge().variants] == [None, None], "what was not trained is not judged"


def test_each_variant_is_trained_with_its_own_settings(write: Write) -> None:
    found = plan(write("base"), write("variant", training={"precision": "bf16"}))
    train_here(found.grid)
    base, variant = found.judge().variants
    assert [result.runs[0].precision for result in (base, variant)] == ["fp32", "bf16"]
    assert base.losses != variant.losses


def test_automatic_precision_and_compile_are_chosen_once_and_kept(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write(name, training={"precision": "auto", "compile": "auto"}) for name in ("base", "variant")]
    answers = iter(["bf16", "fp32"])
    monkeypatch.setattr(plan_module, "choose_precision", lambda *_: next(answers))
    first, again = plan(*files), plan(*files)
    for found in (first, again):
        for variant in found.variants:
            assert (variant.experiment.training.precision, variant.experiment.training.compile) == ("bf16", False)
    assert [cell.key for cell in first.grid.cells] == [cell.key for cell in again.grid.cells]
    assert json.loads((first.folder / "precision.json").read_text()) == {"cpu": "bf16"}
    assert next(answers) == "fp32", "it was measured once"


def test_the_same_text_in_another_file_is_the_same_run_and_another_text_is_not(write: Write, minigpt: Any) -> None:
    base, variant = write("base"), write("variant")
    assert minigpt("run", base, "--no-check")[0] == 0
    shutil.copy("corpus.txt", "same.txt")
    for name in ("base", "variant"):
        write(name, data={"paths": ["same.txt"]})
    assert places(plan(base, variant))["base"] == "runs/base/seed-5"
    Path("same.txt").write_text(Path("corpus.txt").read_text() + "more")
    assert places(plan(base, variant))["base"] == "comparisons/base/runs/base/seed-5"


def test_a_run_of_several_segments_is_neither_found_nor_continued_nor_accepted_by_name(write: Write, minigpt: Any) -> None:
    base, variant = write("base", training={"max_iters": 4}), write("variant")
    assert minigpt("run", base, "--no-check")[0] == 0
    run = RunFolder(Path("runs/base/seed-5"))
    assert places(plan(base, variant, budget="tokens"))["base"] == str(run.path)
    resume(run.path, overrides=["training.max_iters=6"], observer=Watcher())
    assert run.is_finished()
    write("base")  # with 6 updates, the same as the continued run has now
    found = plan(base, variant)
    assert places(found)["base"] == "comparisons/base/runs/base/seed-5"
    (cell, _) = found.grid.cells
    shutil.copytree(run.path, cell.run.path)
    train_here(found.grid)
    assert cell.run.later_segments() == []
    assert cell.run.path.with_name("seed-5.old-1").is_dir()
    with pytest.raises(MinigptError, match=r"runs/base/seed-5 was continued with changes \(from update 4 on: .*max_iters"):
        plan(run.path, variant)


@pytest.mark.parametrize("run_is_base", [False, True])
def test_settings_are_refused_for_a_run_because_it_is_trained_already(run_is_base: bool, write: Write, minigpt: Any) -> None:
    file, other = write("base"), write("other")
    assert minigpt("run", file, "--no-check")[0] == 0
    run = Path("runs/base/seed-5")
    sources = [run, other] if run_is_base else [other, run]
    code, _, errors = minigpt("compare", *sources, "--seeds", "1", "--plan", "--set", "training.max_iters=9")
    assert code == 2
    assert f"--set changes variants, but {run} is trained already; name its experiment file" in errors.replace("\n", " ")
    code, _, errors = minigpt("compare", *sources, "--seeds", "1", "--plan", "--knob", "model.d_model")
    assert code == 2
    assert "--knob model.d_model names what --match changes: add --match" in errors.replace("\n", " ")
    assert minigpt("compare", *sources, "--seeds", "1", "--plan")[0] == 0


def test_a_finished_cell_that_was_continued_since_is_trained_again(write: Write, minigpt: Any) -> None:
    base, variant = write("base"), write("variant", model={"ffn": "glu"})
    found = plan(base, variant)
    train_here(found.grid)
    losses = [result.losses for result in found.judge().variants]
    found.write(found.judge())
    run = found.grid.cells[0].run
    resume(run.path, overrides=["training.max_iters=9"], observer=Watcher())
    assert [cell.variant.name for cell in found.grid.missing()] == ["base"]
    code, _, errors = minigpt("report", "comparisons/base")
    assert code == 2
    assert "was continued with changes since it was compared; call minigpt compare again" in errors.replace("\n", " ")
    again = plan(base, variant)
    assert [cell.variant.name for cell in again.grid.missing()] == ["base"]
    train_here(again.grid)
    assert [result.losses for result in again.judge().variants] == losses


def test_a_run_whose_experiment_was_edited_is_not_used(write: Write, minigpt: Any) -> None:
    base, variant = write("base"), write("variant")
    assert minigpt("run", base, "--no-check")[0] == 0
    file = Path("runs/base/seed-5/experiment.json")
    forge_text(file, file.read_text().replace('"grad_clip": 1.0', '"grad_clip": 0.5'))
    with pytest.raises(
        RunError, match=r"experiment.json was edited: the run was trained with other values of training.grad_clip"
    ):
        plan(file.parent, variant)
    write("base", training={"grad_clip": 0.5})
    assert places(plan(base, variant))["base"] == "comparisons/base/runs/base/seed-5"


def test_changes_of_a_continued_run_are_shown_by_every_command(write: Write, minigpt: Any) -> None:
    assert minigpt("run", write("base"), "--no-check")[0] == 0
    assert minigpt("run", write("other"), "--no-check")[0] == 0
    code, output, _ = minigpt("resume", "runs/base/seed-5", "--set", "training.max_iters=8")
    assert code == 0
    assert "changed: training.max_iters (6 then, 8 now)" in output
    line = "from update 6 on: training.max_iters (6 then, 8 now)"
    assert f"continued with changes: {line}" in minigpt("show", "runs/base/seed-5")[1].replace("\n", " ")
    assert "continued with changes" not in minigpt("show", "runs/other/seed-5")[1]
    rows = json.loads(minigpt("runs", "--json")[1])
    assert {row["run"]: row["segments"] for row in rows} == {"runs/base/seed-5": 2, "runs/other/seed-5": 1}
    assert "finished, 2 segments" in minigpt("runs")[1]
    assert "continued with changes" in minigpt("diff", "runs/base/seed-5", "runs/other/seed-5")[1]
    assert minigpt("report", "runs/base", "runs/other", "--out", "page.html")[0] == 0
    assert f"continued with changes {line}" in Path("page.html").read_text()
