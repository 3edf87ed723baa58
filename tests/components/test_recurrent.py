"""Each recurrent mixer computes its paper's formula, in training and in decoding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.components.recurrent import (
    CASES,
    D_MODEL,
    DIMS,
    REFERENCES,
    TIME,
    build,
    context,
    reference_retention,
    reference_rwkv7,
)
from tests.rounding import assert_formula, normal


def assert_gradients(got: Tensor, expected: Tensor, inputs: dict[str, Tensor]) -> None:
    """Gradients of both with respect to each input are equal and not zero."""
    weights = normal(*got.shape, seed=2)
    found = (torch.autograd.grad(y, inputs.values(), weights, retain_graph=True) for y in (got, expected))
    for name, one, other in zip(inputs, *found, strict=True):
        assert (other != 0).any(), name
        assert_formula(one, other, f"gradient of {name}")


@pytest.mark.parametrize(("name", "params"), CASES, ids=str)
def test_outputs_and_gradients_match_the_papers_formula(name: str, params: dict[str, Any]) -> None:
    module = build(name, **params)
    x = normal(2, TIME, D_MODEL).requires_grad_()
    got, expected = module(x, context(0, TIME)), REFERENCES[name](module, x, **params)
    assert_formula(got, expected, "outputs")
    assert_gradients(got, expected, {"input": x, **dict(module.named_parameters())})


def test_retention_rotates_queries_and_keys_by_their_positions() -> None:
    module = build("retention")
    x = normal(2, TIME, D_MODEL)
    assert_formula(module(x, context(0, TIME, "rope")), reference_retention(module, x, position="rope"))


def test_later_rwkv7_layers_mix_in_the_values_of_the_first() -> None:
    layers = [build("rwkv7", replace(DIMS, occurrence=number)) for number in range(3)]
    assert layers[0].value is None
    x = normal(2, TIME, D_MODEL).requires_grad_()
    ctx, first = context(0, TIME), None
    for layer in layers:
        got = layer(x, ctx)
        expected, first = reference_rwkv7(layer, x, first)
        assert_formula(got, expected, "outputs")
    values = {"the first layer's values": layers[0].v.weight}
    assert_gradients(got, expected, {"input": x, **dict(layers[2].named_parameters()), **values})


@pytest.mark.parametrize(
    ("name", "params", "position"),
    [*((*case, "none") for case in CASES), ("retention", {}, "rope"), ("retention", {}, "xpos")],
    ids=str,
)
def test_decoding_beyond_a_chunk_equals_training(name: str, params: dict[str, Any], position: str) -> None:
    module = build(name, **params)
    x = normal(2, 150, D_MODEL)
    with torch.no_grad():
        whole = module(x, context(0, 150, position))
        for lengths in ([1] * 150, [1, 70, 64, 2, 13]):
            state = module.new_state(2, 150, torch.device("cpu"), torch.float64)
            sizes, start, pieces = state.nbytes, 0, []
            for length in lengths:
                piece = x[:, start : start + length]
                pieces.append(module(piece, context(start, start + length, position), state))
                start += length
            assert_formula(torch.cat(pieces, 1), whole, f"{len(lengths)} pieces")
            assert state.nbytes == sizes, "the state does not grow"
