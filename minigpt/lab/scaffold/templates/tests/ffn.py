"""The feed-forward keeps its contract, and a model with it learns."""

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


@conformance("ffn", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_the_experiment_learns_one_batch() -> None:
    experiment = load_experiment(EXPERIMENT, overrides=SMALL)
    model = build_model(experiment, vocab_size=11)
    tokens = torch.randint(11, (4, 16), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss, auxiliary = model.loss(tokens, tokens.flip(1))
        optimizer.zero_grad()
        torch.autograd.backward(loss + auxiliary)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
