from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.registry import REGISTRY
from tests.plugins.conftest import Use
from tests.rounding import assert_formula
from tests.strategies import BLOCK_SIZE, cuts, model_with_large_weights, tokens


def section(n_layers: int = 1, **parts: Any) -> ModelSection:
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": n_layers, "block_size": BLOCK_SIZE, "dropout": 0.0, "position": "rope"}
    return ModelSection.model_validate({**sizes, **parts})


def unrolled(looped: GPT, loops: int, depth: int) -> GPT:
    """A model with a layer for every pass of every inner block, each with a copy of its weights."""
    model = model_with_large_weights(section(loops * depth)).double()
    shared = {name: value for name, value in looped.state_dict().items() if not name.startswith("blocks.")}
    model.load_state_dict({**model.state_dict(), **shared})
    for index, layer in enumerate(model.blocks):
        layer.load_state_dict(looped.blocks[0].inner[index % depth].state_dict())
        if index % depth == 0:
            vector = looped.blocks[0].pass_vectors[index // depth]
            layer.register_forward_pre_hook(lambda _, given, vector=vector: (given[0] + vector, *given[1:]))
    return model


@pytest.mark.parametrize(("loops", "depth"), [(1, 1), (4, 1), (2, 3)])
def test_it_equals_a_deeper_model_whose_layers_have_the_same_weights(loops: int, depth: int) -> None:
    looped = model_with_large_weights(section(block={"name": "looped", "loops": loops, "depth": depth})).double()
    ids = tokens(2, BLOCK_SIZE, 3)
    with torch.no_grad():
        assert_formula(looped(ids), unrolled(looped, loops, depth)(ids))


def test_each_pass_has_a_state_and_the_weights_are_stored_once() -> None:
    single = GPT(section(), 23)
    looped = GPT(section(block={"name": "looped", "loops": 5}), 23)
    assert looped.state_bytes(100) == 5 * single.state_bytes(100)
    assert looped.n_parameters() == single.n_parameters() + 5 * 8


@given(st.data(), st.sampled_from([entry.name for entry in REGISTRY.entries("block")]))
def test_it_decodes_in_any_chunks_around_every_block(data: st.DataObject, block: str) -> None:
    parts = {"ffn": {"name": "mlp"}, "block": {"name": "looped", "loops": 2, "depth": 2, "block": block}}
    model = model_with_large_weights(section(2, **parts)).double()
    ids = tokens(2, BLOCK_SIZE, 3)
    state = model.new_state(2, BLOCK_SIZE, torch.float64)
    with torch.no_grad():
        steps = [model(part, state) for part in ids.split(data.draw(cuts(BLOCK_SIZE)), 1)]
        assert_formula(torch.cat(steps, 1), model(ids))


def test_it_requests_a_last_norm_if_the_inner_block_does() -> None:
    kinds = {block: {"name": "looped", "block": block} for block in ("pre_norm", "post_norm")}
    assert [type(GPT(section(block=kind), 23).norm).__name__ for kind in kinds.values()] == ["LayerNorm", "Identity"]


@pytest.mark.slow
def test_a_user_checks_trains_and_generates(use: Use) -> None:
    use()
