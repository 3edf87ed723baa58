"""The check separates even a tiny leak from rounding, in test components and in every shipped part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt.check import agreement as compare
from minigpt.check.cases import Case
from minigpt.check.probe import Stack, WholeModel, build, inputs
from minigpt.check.targets import component_target
from minigpt.contracts import Context, Dims, FeedForward, State
from minigpt.registry import REGISTRY, register


def _subject_with(leak: Callable[[Tensor], Tensor]) -> Stack:
    class Leaking(FeedForward):
        def __init__(self, dims: Dims):
            super().__init__()

        def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
            return leak(x)

    with REGISTRY.temporarily():
        register("ffn", "leaking")(Leaking)
        subject = build(component_target("ffn", "leaking"), Case(n_layers=1, time=16))
    assert isinstance(subject, Stack)
    return subject


def _change_the_last_input(subject: Any, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
    x, tokens = inputs(subject, Case(n_layers=1, time=16), offset=repetition, dtype=dtype)
    other = x.clone()
    other[:, -1] += 3
    return compare.run(subject, other, tokens)[:, :-1], compare.run(subject, x, tokens)[:, :-1]


def _by_total_and_rest(x: Tensor) -> Tensor:
    """Return a causal sum as the total minus later values: exact except for rounding."""
    return x.sum(1, keepdim=True) - (x.flip(1).cumsum(1).flip(1) - x)


def test_rounding_is_not_a_leak_and_a_small_leak_is_found() -> None:
    assert compare.disagreement(_subject_with(_by_total_and_rest), _change_the_last_input) is None
    first, second = _change_the_last_input(_subject_with(_by_total_and_rest), torch.float32, 0)
    assert not torch.equal(first, second), "without rounding this test proves nothing"
    for size in (1.0, 1e-3, 1e-5):
        leak = compare.disagreement(
            _subject_with(lambda x, size=size: size * x.sum(1, keepdim=True)), _change_the_last_input
        )
        assert leak is not None
        assert 0.1 * size < leak < 10 * size


def test_a_leak_only_in_fp32_is_found() -> None:
    leak = _subject_with(lambda x: x.sum(1, keepdim=True) if x.dtype == torch.float32 else torch.zeros_like(x))
    assert compare.disagreement(leak, _change_the_last_input) is not None


def test_a_part_that_cannot_compute_in_float64_gets_a_tolerance() -> None:
    weight = torch.ones(8, 8)
    assert (
        compare.disagreement(_subject_with(lambda x: _by_total_and_rest(x @ weight)), _change_the_last_input, 1e-4) is None
    )
    assert (
        compare.disagreement(_subject_with(lambda x: (x @ weight).sum(1, keepdim=True)), _change_the_last_input, 1e-4)
        is not None
    )


def test_nan_against_a_number_is_a_difference_and_nan_against_nan_is_not() -> None:
    nan, one = torch.tensor([float("nan"), 1.0]), torch.tensor([0.0, 1.0])
    assert compare.distance(nan, one) == float("inf")
    assert compare.distance(nan, nan) == 0


@pytest.mark.parametrize("size", [1e-6, 1e-7, 1e-8])
def test_a_leak_far_below_fp32_rounding_is_found(size: float) -> None:
    leak = compare.disagreement(
        _subject_with(lambda x: _by_total_and_rest(x) + size * x.sum(1, keepdim=True)), _change_the_last_input
    )
    assert leak is not None
    assert 0.1 * size < leak < 10 * size


def test_a_part_that_converts_its_inputs_to_fp32_gets_the_fp32_tolerance() -> None:
    assert (
        compare.disagreement(_subject_with(lambda x: _by_total_and_rest(x.float()).to(x.dtype)), _change_the_last_input)
        is None
    )
    narrow = _subject_with(lambda x: _by_total_and_rest(x.float()).to(x.dtype) + 1e-4 * x.sum(1, keepdim=True))
    assert compare.disagreement(narrow, _change_the_last_input) is not None


FAMILIES = ("attention", "position", "norm", "ffn", "block")
PARTS = [(family, entry.name) for family in FAMILIES for entry in REGISTRY.entries(family)]


@pytest.mark.parametrize(("family", "name"), PARTS)
def test_a_leak_below_fp32_rounding_is_found_in_every_shipped_part(family: str, name: str) -> None:
    subject = build(component_target(family, name), Case(n_layers=1, time=16))
    assert compare.disagreement(subject, _change_the_last_input) is None
    layer = (subject.model.blocks if isinstance(subject, WholeModel) else subject.layers)[0]
    channels = torch.linspace(-1, 1, subject.width, dtype=torch.float64)  # not constant: a norm may remove a shared offset
    size = 1e-7

    def leak(_: object, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
        return y + size * channels.to(y.dtype) * given[0].sum(1, keepdim=True)

    layer.register_forward_hook(leak)
    size *= 5e-7 / compare.distance(*_change_the_last_input(copy.deepcopy(subject).double(), torch.float64, 0))
    measured = compare.disagreement(subject, _change_the_last_input)
    assert measured is not None
    assert measured < compare.SAME_PATH, "the fp32 tolerance would hide this leak"
