"""The embedding keeps its contract, and a token's vector depends on the token before it."""

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


@conformance("embedding", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_a_vector_depends_on_the_token_before_it() -> None:
    model = build_model(load_experiment(EXPERIMENT, overrides=SMALL), vocab_size=11).eval()
    _, ctx = model.hidden(torch.tensor([[1, 2, 3], [4, 2, 3]]))
    one, other = ctx.outputs[0]  # the vectors that enter the first block
    assert not torch.equal(one[1], other[1])
    assert torch.equal(one[2], other[2])
