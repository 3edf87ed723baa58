"""The block keeps its contract, and gradients reach every layer of a deep model."""

from __future__ import annotations

from pathlib import Path

import torch

from minigpt import build_model, load_experiment
from minigpt.testing import conformance

NAME = "my_part"
ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "plugins" / f"{NAME}.py"
EXPERIMENT = ROOT / "experiments" / f"{NAME}.json"
SMALL = ["model.d_model=64", "model.head_dim=16", "model.dropout=0.0"]


@conformance("block", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_the_gradient_reaches_every_layer_of_a_deep_model() -> None:
    experiment = load_experiment(EXPERIMENT, overrides=[*SMALL, "model.n_layers=24"])
    model = build_model(experiment, vocab_size=11)
    tokens = torch.randint(11, (4, 16), generator=torch.Generator().manual_seed(0))
    loss, _ = model.loss(tokens, tokens.roll(-1, dims=1))
    torch.autograd.backward(loss)
    for block in model.blocks:
        gradients = [p.grad for p in block.parameters() if p.grad is not None]
        assert torch.nn.utils.get_total_norm(gradients) > 1e-6
