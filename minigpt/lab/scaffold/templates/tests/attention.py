"""The attention keeps its contract, and a model of it decodes as it trains."""

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


@conformance("attention", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_the_experiment_decodes_as_it_trains() -> None:
    experiment = load_experiment(EXPERIMENT, overrides=SMALL)
    model = build_model(experiment, vocab_size=11).double().eval()  # fp32 rounding depends on the processor
    tokens = torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(0))
    state = model.new_state(batch=2, capacity=12, dtype=torch.float64)
    with torch.no_grad():
        at_once = model(tokens)
        one_by_one = [model(token, state) for token in torch.split(tokens, 1, dim=1)]
    decoded = torch.cat(one_by_one, dim=1)
    torch.testing.assert_close(decoded, at_once, rtol=1e-9, atol=1e-9)
