"""Divergence: a non-finite loss or gradient is detected before the update, non-finite weights before a save."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from minigpt.errors import DivergedError
from minigpt.model import GPT
from minigpt.reading import load_experiment
from minigpt.run import RunFolder, checkpoint
from minigpt.training import loop, resume
from minigpt.training.stopping import StopNow
from tests.training.conftest import Watcher, Write, run

Spoil = Callable[[set[int], str], None]

BALANCED = {"name": "moe", "n_experts": 4, "balance": "bias"}


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """A function that makes the loss or the gradient of some updates non-finite."""

    def spoil(updates: set[int], what: str) -> None:
        real, calls = loop.compute_gradients, [0]

        def compute(model: GPT, *arguments: object) -> torch.Tensor:
            calls[0] += 1
            measured = real(model, *arguments)  # type: ignore[arg-type]
            if calls[0] in updates:
                measured[{"loss": 0, "gradient": 2}[what]] = math.nan if calls[0] % 2 else math.inf
                gradient = next(parameter.grad for parameter in model.parameters())
                assert gradient is not None
                gradient.fill_(math.nan)
            return measured

        monkeypatch.setattr(loop, "compute_gradients", compute)

    return spoil


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_run_stops_with_the_weights_of_the_update_before(
    what: str, spoil: Spoil, write_experiment: Write, tmp_path: Path
) -> None:
    whole = run(load_experiment(write_experiment(checkpoint_interval=1)), tmp_path / "whole").run
    spoil({12}, what)
    with pytest.raises(DivergedError, match=f"the {what} of update 12 is not finite .* the last checkpoint is of step 11"):
        run(load_experiment(write_experiment(checkpoint_interval=1)), tmp_path / "diverged")
    found = RunFolder(tmp_path / "diverged" / "small" / "seed-1337")
    assert [row.step for row in found.rows()] == list(range(1, 12))
    assert [row.train_loss for row in found.rows()] == [row.train_loss for row in whole.rows()][:11]
    saved = checkpoint.load(found.checkpoints)
    assert saved is not None
    assert saved.progress.step == 11


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_an_update_can_be_left_out_and_is_counted(what: str, spoil: Spoil, write_experiment: Write, tmp_path: Path) -> None:
    spoil({4, 5, 12}, what)
    observer = Watcher()
    experiment = load_experiment(write_experiment(non_finite="skip", checkpoint_interval=1))
    outcome = run(experiment, tmp_path, observer)
    assert (outcome.status, outcome.progress.skipped) == ("finished", 3)
    rows = outcome.run.rows()
    assert {row.step: row.skipped for row in rows if row.skipped is not None} == {4: 1, 5: 2, 12: 3}
    missing = "train_loss" if what == "loss" else "grad_norm"
    assert [row.step for row in rows if getattr(row, missing) is None] == [4, 5, 12]
    assert all(math.isfinite(value) for row in rows for value in row.to_json().values())
    assert observer.out.getvalue().count("left out") >= 3
    assert outcome.val_loss is not None
    assert math.isfinite(outcome.val_loss)


def test_a_learning_rate_that_no_record_can_hold_ends_the_run_in_one_line(write_experiment: Write, tmp_path: Path) -> None:
    file = write_experiment("huge", max_iters=4, optimizer={"name": "adamw", "learning_rate": 1e308})
    with pytest.raises(DivergedError, match=r"the learning rate of update 1 is 5e\+307: choose a smaller one"):
        run(load_experiment(file), tmp_path / "runs")


def test_a_run_with_a_huge_validation_loss_can_be_read(
    write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GPT, "cross_entropy", lambda *batch: torch.tensor(300.0))
    done = run(load_experiment(write_experiment(max_iters=2)), tmp_path / "runs").run
    row = done.rows()[-1]
    assert (row.val_loss, row.val_perplexity) == (300.0, math.exp(230.0)), "the largest that a record holds"


def test_the_count_continues_after_a_stop(spoil: Spoil, write_experiment: Write, tmp_path: Path) -> None:
    spoil({4, 12}, "loss")
    part = run(load_experiment(write_experiment(non_finite="skip")), tmp_path, Watcher(("updated", 7)))
    assert part.status == "stopped"
    assert resume(part.run.path, observer=Watcher()).progress.skipped == 2


def test_weights_do_not_move_in_an_update_that_is_left_out(spoil: Spoil, write_experiment: Write, tmp_path: Path) -> None:
    sound = run(load_experiment(write_experiment(max_iters=39)), tmp_path / "sound").run
    spoil({40}, "loss")
    spoiled = run(load_experiment(write_experiment(non_finite="skip")), tmp_path / "spoiled").run
    a, b = checkpoint.load(sound.checkpoints), checkpoint.load(spoiled.checkpoints)
    assert a is not None
    assert b is not None
    assert all(torch.equal(tensor, b.weights[name]) for name, tensor in a.weights.items())
    assert str(a.optimizer["state"]) == str(b.optimizer["state"])


def test_an_update_that_is_left_out_leaves_nothing_in_the_models_buffers(
    spoil: Spoil, write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward pass of `moe` counts the load of its experts in a buffer that no checkpoint has."""
    spoil({2}, "loss")
    spoiled, before = loop.compute_gradients, []

    def watched(model: GPT, *arguments: object) -> torch.Tensor:
        before.append({name: buffer.clone() for name, buffer in model.named_buffers() if name != "progress"})
        return spoiled(model, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "compute_gradients", watched)
    file = write_experiment(non_finite="skip", max_iters=3)
    run(load_experiment(file, overrides=[f"model.ffn={json.dumps(BALANCED)}"]), tmp_path)
    first, second, third = before
    assert any(not torch.equal(buffer, second[name]) for name, buffer in first.items())
    assert all(torch.equal(buffer, third[name]) for name, buffer in second.items())


def test_an_update_that_a_stop_interrupts_leaves_nothing_in_the_models_buffers(
    write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop may interrupt an update that compiles in the middle, after its forward pass."""
    models = []

    def interrupted(model: GPT, *arguments: object) -> torch.Tensor:
        models.append((model, {name: buffer.clone() for name, buffer in model.named_buffers()}))
        for buffer in model.buffers():
            buffer += 1
        raise StopNow

    monkeypatch.setattr(loop, "compute_gradients", interrupted)
    experiment = load_experiment(write_experiment(max_iters=4), overrides=[f"model.ffn={json.dumps(BALANCED)}"])
    assert run(experiment, tmp_path).status == "stopped"
    ((model, before),) = models
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_too_many_skipped_updates_in_a_row_end_the_run(spoil: Spoil, write_experiment: Write, tmp_path: Path) -> None:
    spoil(set(range(10, 41)), "loss")
    with pytest.raises(
        DivergedError, match="the loss of update 29 is not finite .*, as of 20 in a row: .*checkpoint is of step"
    ):
        run(load_experiment(write_experiment(non_finite="skip")), tmp_path)


def test_a_stop_does_not_reset_the_count_in_a_row(spoil: Spoil, write_experiment: Write, tmp_path: Path) -> None:
    """Twenty skipped updates in a row end the run, even if two sessions made them."""
    spoil(set(range(10, 60)), "loss")
    part = run(load_experiment(write_experiment(non_finite="skip")), tmp_path, Watcher(("updated", 16)))
    assert part.progress.skipped_in_a_row == 8
    with pytest.raises(DivergedError, match="the loss of update 29 is not finite .*, as of 20 in a row"):
        resume(part.run.path, observer=Watcher())


def test_weights_that_a_step_made_infinite_are_not_saved(
    write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient was finite, so only a check of the weights finds it."""
    real, calls = loop.take_step, [0]

    def overflow(model: GPT, optimizer: torch.optim.Optimizer) -> None:
        real(model, optimizer)
        calls[0] += 1
        if calls[0] == 10:
            with torch.no_grad():
                model.norm.bias.view(-1)[3] = torch.inf  # type: ignore[operator, union-attr]

    monkeypatch.setattr(loop, "take_step", overflow)
    with pytest.raises(
        DivergedError, match=r"the weight norm.bias is not finite after update 10: .*checkpoint is of step 5"
    ):
        run(load_experiment(write_experiment(checkpoint_interval=5)), tmp_path)
    saved = checkpoint.load(RunFolder(tmp_path / "small" / "seed-1337").checkpoints)
    assert saved is not None
    assert saved.progress.step == 5
