"""Bounds on the rounding of a computation, on any processor, that follow from the computation.

Processors add in different orders and fuse different operations, so right results differ in the last digits.
A test therefore compares in one of three ways:

- a formula is compared in float64 (`assert_formula`): errors are much larger than rounding;
- fp32 is compared with float64 within a bound from the number of roundings and the size of the summands
  (`gamma` times the sum of the magnitudes, `assert_within`), or from the change of the result when its inputs are rounded
  (`assert_stable`);
- bits are compared if the same operations run in the same order on the same shapes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
"""The largest relative error of one rounding to nearest."""

MANY = 2**20
"""More successive roundings than any formula in these tests, including the effect of its conditioning.

gamma(MANY) is 1.2e-10: a million roundings of float64, and less than a hundredth of one of fp32. So a single number narrowed
to fp32 is detected.
"""


def gamma(roundings: int, dtype: torch.dtype = torch.float32) -> float:
    """Relative error of a product of `roundings` factors 1 + d, |d| <= the unit (Higham 2002, lemma 3.1).

    A sum of n products, added in any order, with or without fused operations, is within gamma(n) of its exact value, relative
    to the sum of the products' magnitudes (section 3.1). A sum of numbers with equal signs is within gamma(n) of its value.
    """
    error = roundings * UNIT[dtype]
    assert error < 0.1, "too many roundings for a useful bound"
    return error / (1 - error)


def normal(*shape: int, seed: int | None = None) -> Tensor:
    """Normally distributed numbers in float64 that fp32 can represent."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).double()


def assert_formula(got: Tensor, expected: Tensor, what: str = "", *, roundings: int = MANY) -> None:
    """Both are float64 and differ only by its rounding, relative to 1 + the largest value because sums may cancel."""
    assert got.dtype == expected.dtype == torch.float64, f"{what}: {got.dtype}, {expected.dtype}: a value was narrowed"
    assert got.shape == expected.shape, what
    error = ((got - expected).abs().max() / (1 + expected.abs().max())).item()
    assert error <= gamma(roundings, torch.float64), f"{what}: differs by {error:.1e}"


def assert_within(got: Tensor, expected: Tensor, bound: Tensor, what: str = "") -> None:
    """Each element is within its bound of the float64 value."""
    assert got.shape == expected.shape, what
    assert expected.dtype == torch.float64, what
    over = ((got.double() - expected).abs() - bound).max().item()
    assert over <= 0, f"{what}: {over:.1e} beyond the bound of at most {bound.max().item():.1e}"


Tensors = dict[str, Tensor]


def assert_stable(compute: Callable[[Tensors], Tensors], inputs: Tensors, roundings: int) -> None:
    """Each fp32 result equals a float64 result for inputs with a few roundings.

    A sound computation satisfies this (backward stability: Higham 2002, section 1.5), but no fixed tolerance: the change of a
    result under rounded inputs depends on the inputs. It is measured in float64 by moving every input by one rounding up or
    down. The largest change of a result, times the number of successive roundings, is the bound for fp32.

    Args:
        compute: From named tensors to named results, in the precision of its inputs.
        inputs: In float64; numbers that fp32 can represent.
        roundings: Number of successive roundings: the lengths of the sums that a number goes through.
    """
    exact, single = compute(inputs), compute({name: x.float() for name, x in inputs.items()})
    moved = dict.fromkeys(exact, 0.0)
    for seed in range(4):
        results = compute(_moved(inputs, seed))
        moved = {name: max(most, (results[name] - exact[name]).abs().max().item()) for name, most in moved.items()}
    # A result is rounded too; if its terms cancel, it rounds like the terms, which are as large as the other results.
    itself = UNIT[torch.float32] * max(result.abs().max().item() for result in exact.values())
    for name, result in single.items():
        error = (result.double() - exact[name]).abs().max().item()
        bound = roundings * max(moved[name], itself)
        assert error <= bound, f"{name}: off by {error:.1e}, but {roundings} roundings explain only {bound:.1e}"


def _moved(inputs: Tensors, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    signs = {name: torch.randint(0, 2, x.shape, generator=generator) * 2 - 1 for name, x in inputs.items()}
    return {name: x * (1 + UNIT[torch.float32] * signs[name].double()) for name, x in inputs.items()}
