"""Numbers that change while training: weight decay, dropout, and the progress that a component reads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from minigpt import build_model, register
from minigpt.contracts import Context, Dims, FeedForward, Ramp, State, value_at
from minigpt.data import load_corpus
from minigpt.errors import ExperimentError, RunError
from minigpt.model import optimizer_of
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run import open_run
from minigpt.run.evaluation import Scorer, evaluate
from minigpt.training import resume
from minigpt.training.loop import Trainer
from tests.soak.children import differences
from tests.training.conftest import Watcher, Write, run

DROPOUT = {"start": 0.4, "end": 0.0, "shape": "cosine"}
DECAY = {"start": 0.3, "end": 0.1, "begin": 0.25, "finish": 0.75}
RAMPED = {"optimizer": {"name": "adamw", "weight_decay": DECAY}}
SHARES = st.floats(0, 1)


@given(SHARES, SHARES, SHARES, st.floats(-3, 3), st.floats(-3, 3))
def test_a_ramp_moves_between_its_values_within_its_part_of_the_training(
    one: float, two: float, at: float, start: float, end: float
) -> None:
    begin, finish = sorted((one, two))
    if begin == finish:
        with pytest.raises(ValueError, match="is not before finish"):
            Ramp(start=start, end=end, begin=begin, finish=finish)
        return
    for shape in ("linear", "cosine"):
        ramp = Ramp(start=start, end=end, begin=begin, finish=finish, shape=shape)
        assert ramp.at(begin) == ramp.at(0.0) == pytest.approx(start, abs=1e-9)
        assert ramp.at(finish) == ramp.at(1.0) == pytest.approx(end, abs=1e-9)
        share = (min(max(at, begin), finish) - begin) / (finish - begin)
        expected = share if shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * share)
        assert ramp.at(at) == pytest.approx(start + (end - start) * expected, abs=1e-9)
        progress = torch.tensor(at, dtype=torch.float64)  # as `ctx.progress`
        assert value_at(ramp, progress) == pytest.approx(ramp.at(at), abs=1e-9)
        assert value_at(start, progress) == start


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "sgd", "muon", "soap", "schedule_free"])
def test_the_trainer_sets_weight_decay_and_dropout_before_each_update(
    optimizer: str, write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float, float]] = []
    update = Trainer._update

    def watched(self: Trainer) -> None:
        update(self)
        decays = {group["weight_decay"] for group in self.optimizer.param_groups if "ramps" in group}
        assert len(decays) == 1
        seen.append((decays.pop(), self.model.dropout.p, float(self.model.progress)))

    monkeypatch.setattr(Trainer, "_update", watched)
    file = write_experiment(dropout=DROPOUT, optimizer={"name": optimizer, "weight_decay": DECAY}, max_iters=8)
    run(load_experiment(file), tmp_path)
    decay, dropout = Ramp.model_validate(DECAY), Ramp.model_validate(DROPOUT)
    assert seen == [(decay.at(step / 8), dropout.at(step / 8), step / 8) for step in range(8)]
    assert seen[0][:2] == (0.3, 0.4)


def test_a_stopped_run_with_ramps_resumes_bit_for_bit(write_experiment: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(dropout=DROPOUT, **RAMPED))
    whole = run(experiment, tmp_path / "whole")
    part = run(experiment, tmp_path / "part", Watcher(("updated", 17)))
    assert not differences(whole.run, resume(part.run.path, observer=Watcher()).run)


def test_a_ramp_changes_the_training_and_a_flat_one_does_not(write_experiment: Write, tmp_path: Path) -> None:
    def trained(name: str, dropout: Any) -> Any:
        return run(load_experiment(write_experiment(name, dropout=dropout, max_iters=6)), tmp_path).run

    plain, flat, ramped = trained("plain", 0.2), trained("flat", {"start": 0.2, "end": 0.2}), trained("ramped", DROPOUT)
    losses = [[row.train_loss for row in each.rows()] for each in (plain, flat, ramped)]
    assert losses[0] == losses[1] != losses[2]


def test_factors_of_an_initialisation_multiply_a_ramp(write_experiment: Write) -> None:
    init = {"name": "mup", "base_width": 16, "base_head_dim": 16}
    experiment = load_experiment(write_experiment(**RAMPED), overrides=[f'model.init={{"name": "mup", "base_width": {16}}}'])
    assert experiment.model.init.name == init["name"]
    optimizer = optimizer_of(experiment.training.optimizer, build_model(experiment, 20))
    decays = {
        (group["weight_decay"], group["ramps"]["weight_decay"]["end"])
        for group in optimizer.param_groups
        if "ramps" in group
    }
    assert decays == {(0.3, 0.1), (0.6, 0.2)}, (
        "the width is twice the base's, so matrices inside the blocks decay by twice as much"
    )


def test_an_opened_model_has_the_progress_of_its_checkpoint(write_experiment: Write, tmp_path: Path) -> None:
    part = run(load_experiment(write_experiment(dropout=DROPOUT)), tmp_path, Watcher(("updated", 21)))
    assert float(open_run(part.run.path, which="last").model.progress) == pytest.approx(22 / 40)


@pytest.mark.parametrize(
    ("dropout", "message"),
    [
        (1.0, "model.dropout: found 1.0 (number); allowed: less than 1.0, or an object in { }"),
        ({"start": 0.1, "end": 1.0}, "model.dropout: start and end must be 0 or more, and below 1"),
        ({"start": 0.1}, "model.dropout.end: is required and has no default"),
        ({"start": 0.1, "end": 0.2, "begin": 0.5, "finish": 0.5}, "model.dropout: begin 0.5 is not before finish 0.5"),
    ],
)
def test_a_wrong_ramp_is_refused_in_one_line(dropout: Any, message: str) -> None:
    with pytest.raises(ExperimentError) as error:
        load_experiment({"model": {"dropout": dropout}})
    assert message in str(error.value)
    assert "[" not in str(error.value).partition(":")[0]


def test_compiling_is_refused_where_every_update_would_compile(write_experiment: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(dropout=DROPOUT, compile=True))
    with pytest.raises(RunError, match="model.dropout changes while training, so updates would be compiled again and again"):
        run(experiment, tmp_path)


def test_every_optimizer_with_a_weight_decay_takes_a_ramp() -> None:
    for entry in REGISTRY.entries("optimizer"):
        if "weight_decay" in entry.params.model_fields and entry.shipped:
            assert REGISTRY.resolve("optimizer", {"name": entry.name, "weight_decay": DECAY}).params["weight_decay"] == Ramp(
                **DECAY
            )


@pytest.mark.parametrize(("begun", "after"), [(DECAY, 0.05), (0.05, DECAY), (DECAY, {**DECAY, "end": 0.0})])
def test_a_ramp_is_changed_on_resuming(begun: Any, after: Any, write_experiment: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(optimizer={"name": "adamw", "weight_decay": begun}, max_iters=10))
    part = run(experiment, tmp_path, Watcher(("updated", 4)))
    seen: list[Any] = []
    update = Trainer._update

    def watched(self: Trainer) -> None:
        update(self)
        seen.append((self.optimizer.param_groups[0]["weight_decay"], "ramps" in self.optimizer.param_groups[0]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", watched)
        changed = [f"training.optimizer.weight_decay={json.dumps(after)}"]
        assert resume(part.run.path, overrides=changed, observer=Watcher()).status == "finished"
    is_ramp = isinstance(after, dict)
    expected = [Ramp.model_validate(after).at(step / 10) if is_ramp else after for step in range(4, 10)]
    assert seen == [(value, is_ramp) for value in expected]


class Gate(FeedForward):
    """Opens while it is trained; in evaluations too."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.map = nn.Linear(dims.d_model, dims.d_model)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return ctx.progress * self.map(x)


def test_an_evaluation_that_was_stopped_has_the_same_progress_when_it_is_repeated(
    write_experiment: Write, tmp_path: Path
) -> None:
    register("ffn", "gate")(Gate)
    experiment = load_experiment(write_experiment(max_iters=12, eval_interval=6), overrides=["model.ffn=gate"])
    whole = run(experiment, tmp_path / "whole")
    part = run(experiment, tmp_path / "part", Watcher(("evaluating", 1)))
    assert part.status == "stopped"
    assert not differences(whole.run, resume(part.run.path, observer=Watcher()).run)
    loss = [row.val_loss for row in whole.run.rows() if row.val_loss is not None][-1]
    opened = open_run(whole.run.path, which="last")
    assert evaluate(Scorer(opened.model, load_corpus(experiment), experiment, "fp32")).val_loss == loss


def test_compiling_is_refused_where_batches_change_their_size(write_experiment: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(batching="growing", compile=True))
    with pytest.raises(
        RunError, match="the size of a batch changes .training.batching. while training, so updates would be"
    ):
        run(experiment, tmp_path)
