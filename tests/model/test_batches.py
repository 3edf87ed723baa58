"""What a batch may carry beside tokens: memory, segments and positions, against independent computations in float64."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt.contracts import Dims, ModelState, Position, State
from minigpt.errors import ExperimentError
from minigpt.model import GPT
from minigpt.registry import REGISTRY, plugins
from tests.components.formulas import ids, model
from tests.rounding import assert_formula

MIXERS = ["mha", {"name": "mha", "window": 3}, "gated_delta_net", "short_conv", "mla", "path_attention"]
SEGMENTS = torch.tensor([[0] * 3 + [1] * 6 + [4] * 3, [2] * 8 + [3] * 4])
ENDS = [[0, 3, 9, 12], [0, 8, 12]]


def detached(state: State) -> None:
    """Cut the gradients of everything that a state holds."""
    state.tensors = {name: tensor.detach().clone() for name, tensor in state.tensors.items()}
    for child in state.children.values():
        detached(child)


def mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return -(logits.exp() / logits.exp().sum(-1, keepdim=True)).log().gather(-1, targets[..., None]).mean()


def gradients(loss: Tensor, built: GPT) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(built.parameters()), materialize_grads=True))


@pytest.mark.parametrize("attention", MIXERS)
@pytest.mark.parametrize("embedding", ["table", "ngram_hash"])
def test_gradients_with_memory_are_those_of_a_pass_from_a_detached_state(attention: Any, embedding: str) -> None:
    plugins.load_file(Path(__file__).parents[2] / "plugins" / "path_attention.py")
    built = model(attention=attention, embedding=embedding, position="none")
    text = ids(2, 13)
    memory, tokens, targets = text[:, :5], text[:, 5:-1], text[:, 6:]
    loss, _ = built.loss(tokens, targets, memory=memory)
    state = built.new_state(2, 12, torch.float64)
    built.hidden(memory, state)  # with gradients
    assert isinstance(state, ModelState)
    detached(state)
    expected = mean_cross_entropy(built.logits(built.hidden(tokens, state)[0]), targets)
    assert_formula(loss, expected)
    without = gradients(mean_cross_entropy(built(text[:, :-1])[:, 5:], targets), built)
    found = gradients(loss, built)
    for one, other in zip(found, gradients(expected, built), strict=True):
        assert_formula(one, other)
    assert any((one - other).abs().max() > 1e-3 for one, other in zip(found, without, strict=True)), "nothing was cut"


@pytest.mark.parametrize("earlier", [1, 5])
@pytest.mark.parametrize("embedding", ["table", {"name": "ngram_hash", "orders": [2, 4]}])
@pytest.mark.parametrize("attention", ["mha", "forgetting", {"name": "mha", "window": 4}])
def test_segments_continue_from_memory(attention: Any, embedding: Any, earlier: int) -> None:
    built = model(attention=attention, embedding=embedding, position="rope" if attention == "mha" else "none")
    tokens, targets = ids(2, 12), ids(2, 12, 1)
    with torch.no_grad():
        loss, _ = built.loss(tokens[:, earlier:], targets[:, earlier:], None, SEGMENTS, tokens[:, :earlier])
        whole = built.logits(built.hidden(tokens, None, SEGMENTS)[0])[:, earlier:]
    assert_formula(loss, mean_cross_entropy(whole, targets[:, earlier:]))


@pytest.mark.parametrize("position", ["learned", {"name": "sinusoidal", "scale": 1.0}])
@pytest.mark.parametrize("earlier", [0, 5])
def test_with_positions_that_restart_a_document_is_the_same_anywhere_in_a_row(position: Any, earlier: int) -> None:
    built, tokens, targets = model(position=position), ids(2, 12), ids(2, 12, 1)
    positions = torch.stack([torch.cat([torch.arange(b - a) for a, b in itertools.pairwise(ends)]) for ends in ENDS])
    memory = tokens[:, :earlier] if earlier else None
    with torch.no_grad():
        loss, _ = built.loss(tokens[:, earlier:], targets[:, earlier:], None, SEGMENTS, memory, positions)
        documents = [
            torch.cat([built(tokens[[row], a:b]) for a, b in itertools.pairwise(ends)], 1) for row, ends in enumerate(ENDS)
        ]
        plain, _ = built.loss(tokens[:, earlier:], targets[:, earlier:], None, SEGMENTS, memory)
    assert_formula(loss, mean_cross_entropy(torch.cat(documents)[:, earlier:], targets[:, earlier:]))
    assert (loss - plain).abs() > 1e-3


@pytest.mark.parametrize("position", ["rope", "alibi", "t5", "none"])
def test_relative_positions_are_the_same_if_they_restart(position: str) -> None:
    built, tokens = model(position=position), ids(2, 12)
    restart = torch.arange(12).expand(2, -1) % 6
    with torch.no_grad():
        for one, other in zip(
            built.loss(tokens, tokens, segments=SEGMENTS, positions=restart),
            built.loss(tokens, tokens, segments=SEGMENTS),
            strict=True,
        ):
            assert torch.equal(one, other)


def test_segments_after_tokens_without_segments_are_refused() -> None:
    built, tokens = model(position="none"), ids(2, 12)
    state = built.new_state(2, 24, torch.float64)
    built.hidden(tokens, state)
    with pytest.raises(ValueError, match="the segments of the 12 tokens in the state are unknown: give segments from the"):
        built.hidden(tokens, state, SEGMENTS)


class AddsOnlyOneRow(Position):
    """It is added, and does not promise to take positions of rows."""

    def __init__(self, dims: Dims):
        super().__init__()

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + 0.1 * positions[:, None]


def test_positions_that_a_component_would_ignore_are_refused() -> None:
    REGISTRY.register("position", "one_row")(AddsOnlyOneRow)
    tokens = ids(2, 12)
    for name, cls in (("fire", "FIRE"), ("one_row", "AddsOnlyOneRow")):
        built = model(position=name)
        assert torch.isfinite(built.loss(tokens, tokens)[0])
        with pytest.raises(
            ExperimentError, match=f"training.batching: {cls} cannot use other positions in each row; choose another model"
        ):
            built.loss(tokens, tokens, positions=torch.arange(12).expand(2, -1))


def test_further_tokens_of_an_objective_are_embedded_in_their_segments() -> None:
    """Documents in one row have the loss of each document alone, also with an embedding that looks back."""
    objective = {"name": "multi_token", "style": "sequential", "n_future": 2}
    embedding = {"name": "ngram_hash", "orders": [2, 3]}
    built = model(position="none", objective=objective, embedding=embedding)
    tokens, targets = ids(2, 12), ids(2, 12, 1)
    _, together = built.loss(tokens, targets, segments=SEGMENTS)
    total = torch.zeros((), dtype=torch.float64)
    for row, ends in enumerate(ENDS):
        for a, b in itertools.pairwise(ends):
            total += (b - a) * built.loss(tokens[[row], a:b], targets[[row], a:b])[1]
    assert_formula(together, total / 24)
