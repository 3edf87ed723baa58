from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Position, State
from minigpt.experiment import ModelSection
from tests.plugins.conftest import Build, Use
from tests.rounding import assert_formula, normal
from tests.strategies import BLOCK_SIZE, cuts, model_with_large_weights, tokens

DIMS = Dims(8, 2, 2, 4, 16, 11, 0.0)


def randomised(build: Build, **params: bool) -> nn.Module:
    module = build(DIMS, **params)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module.double()


def forward(module: nn.Module, x: Tensor, start: int = 0, state: State | None = None) -> Tensor:
    positions = torch.arange(start, start + x.shape[1])
    with torch.no_grad():
        return module(x, Context(positions, Position(), torch.zeros(x.shape[:2], dtype=torch.long)), state)


def projected(module: nn.Module, sequence: Tensor) -> tuple[Tensor, Tensor, Tensor, list[list[Tensor]]]:
    """Queries, keys and values [T, H, K], and the reflection H_s of each token and head."""
    w = {name: parameter.detach() for name, parameter in module.named_parameters()}
    heads = sequence @ w["qkvw.weight"].T + w.get("qkvw.bias", 0)
    q, k, v, direction = heads.view(len(sequence), 4, 2, 4).unbind(1)
    strength = 2 / (1 + torch.exp(-(sequence @ w["strength.weight"].T + w["strength.bias"])))
    unit = direction / direction.square().sum(-1, keepdim=True).sqrt()
    identity = torch.eye(4, dtype=torch.float64)
    reflections = [
        [identity - strength[s, h] * torch.outer(unit[s, h], unit[s, h]) for h in range(2)] for s in range(len(sequence))
    ]
    return q, k, v, reflections


def papers(module: nn.Module, x: Tensor) -> Tensor:
    """Equations 1 and 2 of Yang et al. 2025, with the products written out for each pair of tokens."""
    w = {name: parameter.detach() for name, parameter in module.named_parameters()}
    y = torch.zeros_like(x)
    for row, sequence in enumerate(x):
        q, k, v, reflections = projected(module, sequence)
        mixed = torch.zeros(len(sequence), 2, 4, dtype=torch.float64)
        for h in range(2):
            for i in range(len(sequence)):
                scores = []
                for j in range(i + 1):
                    path = torch.eye(4, dtype=torch.float64)
                    for s in range(j + 1, i + 1):
                        path = path @ reflections[s][h]
                    scores.append(k[j, h] @ path @ q[i, h] / math.sqrt(4))
                mixed[i, h] = torch.stack(scores).softmax(0) @ v[: i + 1, h]
        y[row] = mixed.flatten(1) @ w["out.weight"].T + w.get("out.bias", 0)
    return y


@pytest.mark.parametrize("bias", [False, True])
def test_it_computes_the_papers_formula(build: Build, bias: bool) -> None:
    module = randomised(build, bias=bias)
    x = normal(2, 9, 8, seed=1)
    assert_formula(forward(module, x), papers(module, x))


def test_a_state_holds_each_key_as_the_next_token_finds_it(build: Build) -> None:
    module = randomised(build)
    x = normal(1, 9, 8, seed=1)
    state = module.new_state(1, 9, torch.device("cpu"), torch.float64)
    forward(module, x[:, :4], 0, state)
    forward(module, x[:, 4:], 4, state)
    _, k, _, reflections = projected(module, x[0])
    for h in range(2):
        for j in range(9):
            key = k[j, h]
            for s in range(j + 1, 9):
                key = reflections[s][h] @ key
            assert_formula(state.tensors["0"][0, h, j], key)


def test_a_token_cannot_be_undone(build: Build) -> None:
    state = build(DIMS).new_state(1, 9, torch.device("cpu"), torch.float32)
    assert not state.truncatable, "the earlier keys have changed"


@given(st.data())
def test_a_model_with_it_decodes_in_any_chunks(data: st.DataObject) -> None:
    section = {"d_model": 8, "n_heads": 2, "n_layers": 2, "block_size": BLOCK_SIZE, "dropout": 0.0, "position": "none"}
    model = model_with_large_weights(ModelSection.model_validate({**section, "attention": "path_attention"})).double()
    ids = tokens(2, BLOCK_SIZE, 3)
    state = model.new_state(2, BLOCK_SIZE, torch.float64)
    with torch.no_grad():
        steps = [model(part, state) for part in ids.split(data.draw(cuts(BLOCK_SIZE)), 1)]
        assert_formula(torch.cat(steps, 1), model(ids))


@pytest.mark.slow
def test_a_user_checks_trains_and_generates(use: Use) -> None:
    use()
