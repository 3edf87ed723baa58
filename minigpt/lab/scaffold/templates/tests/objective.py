"""The objective keeps its contract, and rewards uncertain predictions."""

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


@conformance("objective", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_uncertain_predictions_are_rewarded_with_their_entropy() -> None:
    model = build_model(load_experiment(EXPERIMENT, overrides=SMALL), vocab_size=11)
    tokens = torch.randint(11, (4, 16), generator=torch.Generator().manual_seed(0))
    loss, auxiliary = model.loss(tokens, tokens.roll(-1, dims=1))
    assert loss.item() == model.cross_entropy(tokens, tokens.roll(-1, dims=1)).item()
    # A new model gives all tokens about the same probability.
    assert abs(auxiliary.item() + 0.1 * math.log(11)) < 0.01
