"""The initialisation keeps its contract, and a deep model with it starts with a sound loss."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from minigpt import build_model, load_experiment
from minigpt.testing import conformance

NAME = "my_part"
ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "plugins" / f"{NAME}.py"
EXPERIMENT = ROOT / "experiments" / f"{NAME}.json"
SMALL = ["model.d_model=64", "model.head_dim=16", "model.dropout=0.0"]


@conformance("init", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_a_deep_model_starts_with_the_loss_of_a_guess() -> None:
    experiment = load_experiment(EXPERIMENT, overrides=[*SMALL, "model.n_layers=24"])
    model = build_model(experiment, vocab_size=11)
    tokens = torch.randint(11, (4, 16), generator=torch.Generator().manual_seed(0))
    loss, _ = model.loss(tokens, tokens.roll(-1, dims=1))
    assert abs(loss.item() - math.log(11)) < 0.5
    torch.autograd.backward(loss)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
