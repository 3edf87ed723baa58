"""Learning from a finished run: the loss, the teacher's content in the identity, and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt.components.attention.mha import MultiHeadAttention
from minigpt.data import train_batch
from minigpt.errors import ExperimentError, RunError
from minigpt.reading import load_experiment
from minigpt.run import RunFolder, open_run
from minigpt.run.sources import Sources
from minigpt.training import resume
from minigpt.training.preparing import load_corpus
from tests.conftest import Command
from tests.rounding import assert_formula
from tests.soak.children import differences
from tests.training.conftest import Watcher, Write, run


@pytest.fixture
def teacher(write_experiment: Write, tmp_path: Path) -> RunFolder:
    return run(load_experiment(write_experiment("teacher", max_iters=12)), tmp_path / "teachers").run


def student(write_experiment: Write, teacher: RunFolder, *overrides: str, name: str = "student", **params: Any) -> Any:
    objective = {"name": "distillation", "run": str(teacher.path), **params}
    file = write_experiment(name, max_iters=6, eval_interval=6)
    return load_experiment(file, overrides=[f"model.objective={json.dumps(objective)}", *overrides])


def test_the_loss_is_hintons(write_experiment: Write, teacher: RunFolder) -> None:
    experiment = student(write_experiment, teacher, "model.dropout=0.0", temperature=3.0, weight=0.25)
    taught = open_run(teacher.path).model.double()
    lm = open_run(teacher.path, which="last").model.double()
    lm.objective = experiment.model.objective.build(lm.dims, experiment.model.layer(1))
    lm.open_run = lambda path: taught if path == str(teacher.path) else None
    batch = train_batch(load_corpus(experiment), experiment, 0)
    with torch.no_grad():
        own, other = lm(batch.tokens), taught(batch.tokens)
        loss, auxiliary = lm.loss(batch.tokens, batch.targets)
    assert auxiliary == 0
    total = torch.zeros((), dtype=torch.float64)
    for row in range(3):
        for place in range(batch.tokens.shape[1]):
            p = torch.exp(other[row, place] / 3.0)
            q = torch.exp(own[row, place] / 3.0)
            p, q = p / p.sum(), q / q.sum()
            hard = -(own[row, place] - own[row, place].exp().sum().log())[batch.targets[row, place]]
            total += 0.75 * hard + 0.25 * 9.0 * (p * (p.log() - q.log())).sum()
    with torch.no_grad():
        of_three = lm.loss(batch.tokens[:3], batch.targets[:3])[0]
    assert_formula(of_three, total / (3 * batch.tokens.shape[1]))
    assert math.isfinite(loss)


def test_it_trains_resumes_bit_for_bit_and_generates_without_the_teacher(
    write_experiment: Write, teacher: RunFolder, tmp_path: Path
) -> None:
    experiment = student(write_experiment, teacher)
    whole = run(experiment, tmp_path / "whole")
    part = run(experiment, tmp_path / "part", Watcher(("updated", 2)))
    assert not differences(whole.run, resume(part.run.path, observer=Watcher()).run)
    names = open_run(whole.run.path).model.state_dict().keys()
    assert names == open_run(teacher.path).model.state_dict().keys(), "the teacher's weights are not the student's"
    teacher.path.rename(tmp_path / "elsewhere")
    open_run(whole.run.path)


def test_the_teachers_content_is_part_of_the_identity(write_experiment: Write, teacher: RunFolder, tmp_path: Path) -> None:
    experiment = student(write_experiment, teacher)
    part = run(experiment, tmp_path / "part", Watcher(("updated", 2)))
    before = part.run.identity()
    assert run(experiment, tmp_path / "again").run.identity() == before
    resume(teacher.path, overrides=["training.max_iters=20"], observer=Watcher())
    assert run(experiment, tmp_path / "after").run.identity() != before
    with pytest.raises(RunError, match="objective/distillation"):
        resume(part.run.path, observer=Watcher())


def test_the_source_of_the_teachers_parts_is_part_of_the_identity(
    write_experiment: Write, teacher: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = student(write_experiment, teacher, "model.attention=gqa")
    part = run(experiment, tmp_path / "part", Watcher(("updated", 2)))
    fingerprint = Sources.part_fingerprint

    def edited(self: Sources, cls: type) -> str:
        return "edited" if cls is MultiHeadAttention else fingerprint(self, cls)

    monkeypatch.setattr(Sources, "part_fingerprint", edited)
    with pytest.raises(RunError, match="attention/mha"):
        resume(part.run.path, observer=Watcher())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokenizer=byte"], "has another vocabulary, so it cannot teach this model; train it on the same text"),
        (
            ["model.block_size=40"],
            "the teacher reads 32 tokens at most, and a batch has 40: choose a smaller model.block_size",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_the_run_begins(
    overrides: list[str], message: str, write_experiment: Write, teacher: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=message):
        run(student(write_experiment, teacher, *overrides), tmp_path / "runs")
    assert not (tmp_path / "runs" / "student" / "seed-1337" / "experiment.json").exists()


def test_a_missing_teacher_is_one_line(write_experiment: Write, teacher: RunFolder, tmp_path: Path) -> None:
    experiment = student(write_experiment, teacher)
    teacher.path.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is not a run folder: the folder does not exist"):
        run(experiment, tmp_path / "runs")


def test_a_teacher_refuses_documents_before_the_run_begins(
    write_experiment: Write, teacher: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(ExperimentError, match=r"model.objective: a teacher cannot read batches with segments or memory"):
        run(student(write_experiment, teacher, "training.batching=documents"), tmp_path / "runs")
    assert not (tmp_path / "runs" / "student" / "seed-1337" / "experiment.json").exists()


def test_a_teacher_with_plugins_is_refused_without_plugins(
    write_experiment: Write, tmp_path: Path, minigpt: Command
) -> None:
    plugin = Path(__file__).parents[2] / "plugins" / "token_shift.py"
    changes = ["model.ffn=token_shift"]
    taught = load_experiment(write_experiment("teacher", max_iters=2), overrides=changes, plugin_files=[plugin])
    teacher = run(taught, tmp_path / "teachers").run
    file = write_experiment("student", max_iters=2)
    objective = json.dumps({"name": "distillation", "run": str(teacher.path)})
    words = ("run", file, "--set", f"model.objective={objective}", "--out", tmp_path / "runs")
    code, _, err = minigpt(*words, "--no-plugins")
    assert code == 2
    assert "plugins are refused (--no-plugins), but it names" in err
    assert minigpt(*words)[0] == 0
    whole = tmp_path / "runs" / "student" / "seed-1337"
    code, _, err = minigpt("resume", whole, "--set", "training.max_iters=4", "--no-plugins")
    assert code == 2
    assert "plugins are refused (--no-plugins), but it names" in err
