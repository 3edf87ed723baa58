"""How far rounding may take a computation from its formula, on any processor: bounds that follow from what is computed.

Processors add in other orders and fuse other operations, so what is right on one differs on another in the last digits.
A test therefore compares in one of three ways:

- a formula is compared in float64 (`assert_formula`): what is wrong there is wrong by far more than rounding;
- fp32 is compared with float64 within a bound made of the number of roundings and the size of what is added
  (`gamma` times the sum of the magnitudes, `assert_within`), or of what the result does when its inputs are rounded
  (`rounded`);
- bits are compared where the same operations run in the same order on the same shapes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

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


def rounded(module: nn.Module, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A float64 copy, each parameter off by a rounding to `dtype`, up or down.

    A stable computation gives the exact result for inputs that are a few roundings off (Higham 2002, section 1.5): what it may
    differ by is about the number of roundings in a row times what this changes.
    """
    generator = torch.Generator().manual_seed(seed)
    moved = copy.deepcopy(module).double()
    with torch.no_grad():
        for parameter in moved.parameters():
            signs = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.mul_(1 + UNIT[dtype] * signs.double())
    return moved
