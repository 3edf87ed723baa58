from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from minigpt.contracts import Context, Prediction
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY
from tests.conftest import Command
from tests.plugins.conftest import Build, Train


def prediction(logits: Tensor, targets: Tensor, mask: Tensor | None = None) -> Prediction:
    ctx: Any = Context(torch.arange(targets.shape[1]), nn.Module(), targets)  # type: ignore[arg-type]
    return Prediction(targets, targets, mask, logits, logits, ctx, lambda ids: logits, lambda x: x)


def focal(gamma: float) -> Any:
    return REGISTRY.resolve("objective", {"name": "focal", "gamma": gamma}).build(None, None)


@given(st.floats(0, 5), st.integers(0, 99))
def test_it_is_the_papers_formula(gamma: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 4, 7, dtype=torch.float64, generator=rng)
    targets = torch.randint(0, 7, (2, 4), generator=rng)
    mask = torch.tensor([[True, False, True, True], [False, True, True, False]])
    terms = []
    for row, place in mask.nonzero().tolist():
        weights = [math.exp(value) for value in logits[row, place].tolist()]
        p = weights[int(targets[row, place])] / sum(weights)
        terms.append(-((1 - p) ** gamma) * math.log(p))
    assert focal(gamma)(prediction(logits, targets, mask)).item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_target_that_is_certain_has_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[[200.0, 0.0], [0.0, 200.0]]], requires_grad=True)
    loss = focal(gamma)(prediction(logits, torch.zeros(1, 2, dtype=torch.int64)))
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[0, 1] != 0).all(), "the token that is wrong"


@pytest.mark.parametrize("gamma", [-1, "a"])
def test_invalid_values_are_refused(build: Build, gamma: Any) -> None:
    with pytest.raises(ExperimentError, match="gamma"):
        build(gamma=gamma)


def test_its_experiment_trains_and_is_validated_by_cross_entropy(train_experiment: Train, minigpt: Command) -> None:
    outcome = train_experiment("model.objective.gamma=8", updates=6)
    (*_, last) = outcome.run.rows()
    assert last.train_loss is not None
    assert last.val_loss is not None
    assert last.train_loss < 0.98 * last.val_loss
    assert minigpt("generate", outcome.run.path, "The ", "--max-new-tokens", "5")[0] == 0
