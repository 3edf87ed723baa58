"""How far rounding may take a computation from its formula, on any processor: bounds that follow from what is computed.

Processors add in other orders and fuse other operations, so what is right on one differs on another in the last digits.
A test therefore compares in one of three ways:

- a formula is compared in float64 (`assert_formula`): what is wrong there is wrong by far more than rounding;
- fp32 is compared with float64 within a bound made of the number of roundings and the size of what is added
  (`gamma` times the sum of the magnitudes, `assert_within`), or of what the result does when its inputs are rounded
  (`assert_stable`);
- bits are compared where the same operations run in the same order on the same shapes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
"""The largest relative error of one rounding to nearest."""

MANY = 2**20
"""More roundings, one after another, than any formula in these tests makes, what its conditioning adds included.

gamma(MANY) is 1.2e-10 in float64: a million times one rounding there, and less than a hundredth of one in fp32, so that a single
number narrowed to fp32 on the way is seen.
"""


def gamma(roundings: int, dtype: torch.dtype = torch.float32) -> float:
    """Relative error of a product of `roundings` factors 1 + d, |d| <= the unit (Higham 2002, lemma 3.1).

    A sum of n products, added in any order, with or without fused operations, is within gamma(n) of its exact value, relative
    to the sum of the products' magnitudes (section 3.1 there). A sum of numbers of one sign is within gamma(n) of itself.
    """
    error = roundings * UNIT[dtype]
    assert error < 0.1, "so many roundings that the bound says nothing"
    return error / (1 - error)


def normal(*shape: int, seed: int | None = None) -> Tensor:
    """Normally distributed numbers in float64 that fp32 has too."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).double()


def assert_formula(got: Tensor, expected: Tensor, what: str = "", *, roundings: int = MANY) -> None:
    """Both are float64, and differ by its rounding alone: relative to 1 + the largest value, since sums may cancel."""
    assert got.dtype == expected.dtype == torch.float64, f"{what}: {got.dtype}, {expected.dtype}: something was narrowed"
    assert got.shape == expected.shape, what
    error = ((got - expected).abs().max() / (1 + expected.abs().max())).item()
    assert error <= gamma(roundings, torch.float64), f"{what}: differs by {error:.1e}"


def assert_within(got: Tensor, expected: Tensor, bound: Tensor, what: str = "") -> None:
    """Each element is within its own bound of what it is in float64."""
    assert got.shape == expected.shape, what
    assert expected.dtype == torch.float64, what
    over = ((got.double() - expected).abs() - bound).max().item()
    assert over <= 0, f"{what}: {over:.1e} beyond the bound, which is {bound.max().item():.1e} at most"


Tensors = dict[str, Tensor]


def assert_stable(compute: Callable[[Tensors], Tensors], inputs: Tensors, roundings: int) -> None:
    """In fp32 each result is what float64 gives for inputs that are some roundings off.

    That is what a sound computation can promise (backward stability: Higham 2002, section 1.5), and no fixed number is: how far
    a result moves when its inputs are rounded depends on them. It is measured here, in float64, by moving every input by
    one rounding up or down; the largest move of a result, times the roundings that follow one another on the way to it, is
    what fp32 may be off by.

    Args:
        compute: From named tensors to named results, in the precision that it is given.
        inputs: In float64; numbers that fp32 has too.
        roundings: How many follow one another: the lengths of the sums that a number goes through.
    """
    exact, single = compute(inputs), compute({name: x.float() for name, x in inputs.items()})
    moved = dict.fromkeys(exact, 0.0)
    for seed in range(4):
        results = compute(_moved(inputs, seed))
        moved = {name: max(most, (results[name] - exact[name]).abs().max().item()) for name, most in moved.items()}
    # A result is rounded itself; one whose terms cancel rounds as they do, and they are of the size of the other results.
    itself = UNIT[torch.float32] * max(result.abs().max().item() for result in exact.values())
    for name, result in single.items():
        error = (result.double() - exact[name]).abs().max().item()
        bound = roundings * max(moved[name], itself)
        assert error <= bound, f"{name}: {error:.1e} off, where {roundings} roundings explain {bound:.1e}"


def _moved(inputs: Tensors, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    signs = {name: torch.randint(0, 2, x.shape, generator=generator) * 2 - 1 for name, x in inputs.items()}
    return {name: x * (1 + UNIT[torch.float32] * signs[name].double()) for name, x in inputs.items()}
