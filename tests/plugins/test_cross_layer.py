from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Position
from minigpt.errors import ExperimentError
from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.registry import REGISTRY
from tests.plugins.conftest import Build, Use
from tests.rounding import assert_formula, normal
from tests.strategies import BLOCK_SIZE, model_with_large_weights, tokens

DIMS = Dims(12, 5, 4, 3, 16, 11, 0.0)


def layers(build: Build, **params: Any) -> list[nn.Module]:
    built = [build(replace(DIMS, layer=index, occurrence=index), **params) for index in range(5)]
    generator = torch.Generator().manual_seed(0)
    for layer in built:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return [layer.double() for layer in built]


def papers(built: list[nn.Module], x: Tensor, share: int, kv_heads: int) -> Tensor:
    """Brandon et al. 2024, section 2: token by token and head by head, on a stream without norms."""
    for index, layer in enumerate(built):
        w = {name: parameter.detach() for name, parameter in layer.named_parameters()}
        if index % share == 0:
            k, v = (x @ w["kv.weight"].T + w["kv.bias"]).unflatten(-1, (2, kv_heads, 3)).unbind(2)
        else:
            assert "kv.weight" not in w
        q = (x @ w["q.weight"].T + w["q.bias"]).unflatten(-1, (4, 3))
        mixed = torch.zeros_like(q)
        for row in range(len(x)):
            for t in range(x.shape[1]):
                for head in range(4):
                    group = head // (4 // kv_heads)
                    weights = (k[row, : t + 1, group] @ q[row, t, head] / math.sqrt(3)).softmax(0)
                    mixed[row, t, head] = weights @ v[row, : t + 1, group]
        x = x + mixed.flatten(2) @ w["out.weight"].T + w["out.bias"]
    return x


@pytest.mark.parametrize(("share", "kv_heads"), [(1, 4), (2, 4), (2, 1), (3, 2)])
def test_layers_use_the_keys_and_values_of_the_first_of_their_group(build: Build, share: int, kv_heads: int) -> None:
    built = layers(build, share=share, n_kv_heads=kv_heads, bias=True)
    x = normal(2, 7, 12, seed=1)
    y, ctx = x, Context(torch.arange(7), Position(), torch.zeros(2, 7, dtype=torch.long))
    with torch.no_grad():
        for layer in built:
            y = y + layer(y, ctx)
        assert_formula(y, papers(built, x, share, kv_heads))


def test_queries_of_all_layers_are_rotated_as_the_shared_keys(build: Build) -> None:
    """Scores then depend on distances only, so nothing changes if all positions are larger."""
    built = layers(build, share=2)
    rope = REGISTRY.resolve("position", {"name": "rope", "fraction": 2 / 3}).build(DIMS)
    x, outputs = normal(2, 7, 12, seed=1), []
    for start in (0, 5):
        y, ctx = x, Context(torch.arange(start, start + 7), rope, torch.zeros(2, 7, dtype=torch.long))
        with torch.no_grad():
            for layer in built:
                y = y + layer(y, ctx)
        outputs.append(y)
    error = ((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()).item()
    assert error < 1e-4, "the angles are in fp32"


def section(**attention: Any) -> ModelSection:
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": 4, "block_size": BLOCK_SIZE, "dropout": 0.0}
    return ModelSection.model_validate({**sizes, "attention": attention})


def test_only_layers_with_own_keys_and_values_have_a_state() -> None:
    all_layers = GPT(section(name="mha"), 23).state_bytes(100)
    for share, layers_with_own in ((1, 4), (2, 2), (3, 2), (4, 1)):
        shared = GPT(section(name="cross_layer", share=share), 23)
        assert 4 * shared.state_bytes(100) == layers_with_own * all_layers
        assert shared.new_state(1, 8).truncatable, "decoding can read ahead"


@pytest.mark.parametrize("position", [entry.name for entry in REGISTRY.entries("position")])
def test_it_decodes_with_every_position(position: str) -> None:
    changes = {"position": REGISTRY.resolve("position", position)}
    model = model_with_large_weights(section(name="cross_layer", share=2).model_copy(update=changes)).double()
    ids = tokens(2, BLOCK_SIZE, 3)
    state = model.new_state(2, BLOCK_SIZE, torch.float64)
    with torch.no_grad():
        assert_formula(torch.cat([model(ids[:, [t]], state) for t in range(BLOCK_SIZE)], 1), model(ids))


def test_heads_that_cannot_be_grouped_are_refused(build: Build) -> None:
    with pytest.raises(ExperimentError, match="n_kv_heads 3 does not divide n_heads 4"):
        build(DIMS, n_kv_heads=3)


@pytest.mark.slow
def test_a_user_checks_trains_and_generates(use: Use) -> None:
    use()
