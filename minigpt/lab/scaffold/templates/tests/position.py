"""The position keeps its contract, and a model with it depends on the tokens' order."""

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


@conformance("position", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_the_experiment_knows_the_order_of_its_tokens() -> None:
    # Without positions, one layer gives the last token the same result in any order.
    one_layer = [*SMALL, "model.n_layers=1", "model.layers=[]"]
    experiment = load_experiment(EXPERIMENT, overrides=one_layer)
    model = build_model(experiment, vocab_size=11).double().eval()
    with torch.no_grad():
        last = model(torch.tensor([[1, 2, 3, 4, 5], [2, 1, 3, 4, 5]]))[:, -1]
    assert (last[0] - last[1]).abs().max() > 1e-9
