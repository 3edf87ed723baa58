from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt.contracts import Context
from minigpt.experiment import ModelSection
from minigpt.model import GPT, build_model
from minigpt.reading import load_experiment
from tests.plugins.conftest import ROOT, Use
from tests.rounding import assert_formula
from tests.strategies import BLOCK_SIZE, model_with_large_weights, tokens


def section(**block: Any) -> ModelSection:
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": 5, "block_size": BLOCK_SIZE, "dropout": 0.0}
    return ModelSection.model_validate({**sizes, "block": {"name": "dense_former", **block}})


def papers(model: GPT, ids: Tensor, dilation: int) -> Tensor:
    """Equations 2 and 3 of Pagliardini et al. 2024: Y_i = sum over j of a_ij X_j after layer i, X_(i+1) = block(Y_i)."""
    positions = torch.arange(ids.shape[1])
    ctx = Context(positions, model.positions[0], ids)
    outputs = [model.positions[0].embed(model.embedding(ids, ctx), positions)]
    weights = [*(block.weights for block in model.blocks), model.blocks[-1].last_weights]
    for layer in range(6):
        places = [j for j in range(layer + 1) if (layer - j) % dilation == 0]
        assert len(weights[layer]) == len(places)
        y = sum(weights[layer][(layer - j) // dilation] * outputs[j] for j in places)
        if layer < 5:
            inner = model.blocks[layer].inner
            outputs.append(inner.leave(inner(inner.enter(y), ctx)))
    return model.logits(model.norm(y))


@pytest.mark.parametrize("dilation", [1, 2, 7])
@pytest.mark.parametrize("block", ["pre_norm", "hyper_connections"])
def test_it_computes_the_papers_formula(dilation: int, block: str) -> None:
    model = model_with_large_weights(section(dilation=dilation, block=block)).double()
    ids = tokens(2, BLOCK_SIZE, 3)
    with torch.no_grad():
        assert_formula(model(ids), papers(model, ids, dilation))


def test_it_starts_as_the_model_with_the_inner_block() -> None:
    small = ["model.d_model=16", "model.n_heads=2"]
    plain = build_model(load_experiment(ROOT / "experiments" / "quickstart.json", overrides=small), 23)
    dense = build_model(load_experiment(ROOT / "experiments" / "dense_former.json", overrides=small), 23)
    ids = tokens(2, BLOCK_SIZE, 3)
    with torch.no_grad():
        assert torch.equal(dense(ids), plain(ids))


def test_a_model_with_it_decodes_token_by_token() -> None:
    model = model_with_large_weights(section(block="unet")).double()
    ids = tokens(2, BLOCK_SIZE, 3)
    state = model.new_state(2, BLOCK_SIZE, torch.float64)
    with torch.no_grad():
        assert_formula(torch.cat([model(ids[:, [t]], state) for t in range(BLOCK_SIZE)], 1), model(ids))


@pytest.mark.slow
def test_a_user_checks_trains_and_generates(use: Use) -> None:
    use()
