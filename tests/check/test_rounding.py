"""A leak is told from rounding, however small it is: on what is made up, and on every shipped part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt.check import agreement as compare
from minigpt.check.probe import Case, Stack, WholeModel, build, inputs
from minigpt.check.targets import component_target
from minigpt.contracts import Context, Dims, FeedForward, State
from minigpt.registry import REGISTRY, register


def _with(leak: Callable[[Tensor], Tensor]) -> Stack:
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


def _last_changes(subject: Any, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
    x, tokens = inputs(subject, Case(n_layers=1, time=16), offset=repetition, dtype=dtype)
    other = x.clone()
    other[:, -1] += 3
    return compare.run(subject, other, tokens)[:, :-1], compare.run(subject, x, tokens)[:, :-1]


def _by_total_and_rest(x: Tensor) -> Tensor:
    """A causal sum, as the total without what is later: exact but for rounding."""
    return x.sum(1, keepdim=True) - (x.flip(1).cumsum(1).flip(1) - x)


def test_rounding_is_no_leak_and_the_smallest_leak_is_one() -> None:
    assert compare.disagreement(_with(_by_total_and_rest), _last_changes) is None
    first, second = _last_changes(_with(_by_total_and_rest), torch.float32, 0)
    assert not torch.equal(first, second), "the test would show nothing"
    for size in (1.0, 1e-3, 1e-5):
        leak = compare.disagreement(_with(lambda x, size=size: size * x.sum(1, keepdim=True)), _last_changes)
        assert leak is not None
        assert 0.1 * size < leak < 10 * size


def test_a_leak_in_fp32_alone_is_one_too() -> None:
    leak = _with(lambda x: x.sum(1, keepdim=True) if x.dtype == torch.float32 else torch.zeros_like(x))
    assert compare.disagreement(leak, _last_changes) is not None


def test_what_cannot_be_computed_in_float64_is_held_to_a_tolerance() -> None:
    weight = torch.ones(8, 8)
    assert compare.disagreement(_with(lambda x: _by_total_and_rest(x @ weight)), _last_changes, 1e-4) is None
    assert compare.disagreement(_with(lambda x: (x @ weight).sum(1, keepdim=True)), _last_changes, 1e-4) is not None


def test_one_not_finite_is_a_difference_and_two_are_none() -> None:
    nan, one = torch.tensor([float("nan"), 1.0]), torch.tensor([0.0, 1.0])
    assert compare.distance(nan, one) == float("inf")
    assert compare.distance(nan, nan) == 0


@pytest.mark.parametrize("size", [1e-6, 1e-7, 1e-8])
def test_a_leak_far_below_the_rounding_of_fp32_is_one_too(size: float) -> None:
    leak = compare.disagreement(_with(lambda x: _by_total_and_rest(x) + size * x.sum(1, keepdim=True)), _last_changes)
    assert leak is not None
    assert 0.1 * size < leak < 10 * size


def test_what_narrows_its_inputs_has_the_rounding_of_fp32_and_its_tolerance() -> None:
    assert compare.disagreement(_with(lambda x: _by_total_and_rest(x.float()).to(x.dtype)), _last_changes) is None
    narrow = _with(lambda x: _by_total_and_rest(x.float()).to(x.dtype) + 1e-4 * x.sum(1, keepdim=True))
    assert compare.disagreement(narrow, _last_changes) is not None


FAMILIES = ("attention", "position", "norm", "ffn", "block")
PARTS = [(family, entry.name) for family in FAMILIES for entry in REGISTRY.entries(family)]


@pytest.mark.parametrize(("family", "name"), PARTS)
def test_a_leak_below_the_rounding_of_fp32_is_found_in_every_shipped_part(family: str, name: str) -> None:
    subject = build(component_target(family, name), Case(n_layers=1, time=16))
    assert compare.disagreement(subject, _last_changes) is None
    layer = (subject.model.blocks if isinstance(subject, WholeModel) else subject.layers)[0]
    channels = torch.linspace(-1, 1, subject.width, dtype=torch.float64)  # what all channels share, a norm may lose
    size = 1e-7

    def leak(_: object, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
        return y + size * channels.to(y.dtype) * given[0].sum(1, keepdim=True)

    layer.register_forward_hook(leak)
    size *= 5e-7 / compare.distance(*_last_changes(copy.deepcopy(subject).double(), torch.float64, 0))
    found = compare.disagreement(subject, _last_changes)
    assert found is not None
    assert found < compare.SAME, "it is one that fp32's tolerance would hide"
