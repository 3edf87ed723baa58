"""Fused operations equal their plain formulas, gradients included: in float64, and in fp32 within its rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minigpt.kernels.fused import Dropout, rms_norm, rotate_pairs, squared_relu
from tests.rounding import UNIT, assert_formula, assert_within, gamma, normal

SEEDS = st.integers(0, 10_000)


def angles(time: int, pairs: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.arange(time, dtype=dtype)[:, None] * 100.0 ** -(torch.arange(pairs, dtype=dtype) / pairs)
    return angle.cos(), angle.sin()


def plain_rms_norm(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def plain_rotation(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    pairs = cos.shape[-1]
    numbers = torch.complex(x[..., :pairs], x[..., pairs : 2 * pairs]) * torch.complex(cos, sin)
    return torch.cat((numbers.real, numbers.imag, x[..., 2 * pairs :]), -1)


def cases(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor):
    yield "rms_norm", rms_norm(x, 1e-6), plain_rms_norm
    yield "squared_relu", squared_relu(x), lambda x: x.clamp(min=0) ** 2
    yield "rotate_pairs", rotate_pairs(x, cos, sin), lambda x: plain_rotation(x, cos.to(x.dtype), sin.to(x.dtype))


def drawn(seed: int, time: int, pairs: int, beyond: int, across: bool) -> tuple[torch.Tensor, torch.Tensor]:
    x = normal(2, 3, time, 2 * pairs + beyond, seed=seed)
    if across:  # heads from a projection, not contiguous
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    return x.requires_grad_(), normal(*x.shape, seed=seed + 1)


SIZES = given(seed=SEEDS, time=st.integers(1, 9), pairs=st.integers(1, 8), beyond=st.integers(0, 3), across=st.booleans())


@SIZES
def test_values_and_gradients_match_the_formula(seed, time, pairs, beyond, across):
    x, g = (part.detach() / 3 for part in drawn(seed, time, pairs, beyond, across))  # numbers that fp32 cannot represent
    x.requires_grad_()
    for name, y, formula in cases(x, *angles(time, pairs, torch.float64)):
        expected = formula(x)
        assert_formula(y, expected, name, roundings=1000)
        got, wanted = (torch.autograd.grad(z, x, g)[0] for z in (y, expected))
        assert_formula(got, wanted, f"gradient of {name}", roundings=10_000)


@SIZES
def test_in_fp32_values_and_gradients_are_within_its_rounding(seed, time, pairs, beyond, across):
    wide, g = drawn(seed, time, pairs, beyond, across)
    x, cos, sin = wide.detach().float().requires_grad_(), *angles(time, pairs)
    width = x.shape[-1]
    for name, y, formula in cases(x, cos, sin):
        expected = formula(wide)
        (gradient,) = torch.autograd.grad(y, x, g.float())
        (wanted,) = torch.autograd.grad(expected, wide, g)
        size, steep = wide.detach().abs(), g.abs()
        if name == "rms_norm":  # equal signs under the root; then a root, a quotient and a product
            inverse = (size.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
            values = expected.detach().abs()
            steep = inverse * (steep + values * (steep * values).mean(-1, keepdim=True))
            roundings = 3 * width + 20  # y twice, and the mean over the width
        elif name == "squared_relu":
            values, steep, roundings = size.square(), 2 * size * steep, 3
        else:  # the sum of two products, each at most the sum of a pair's magnitudes
            values, steep, roundings = pair_sums(size, pairs), pair_sums(steep, pairs), 3
        assert_within(y.detach(), expected.detach(), gamma(roundings) * values, name)
        assert_within(gradient, wanted, gamma(roundings) * steep, f"gradient of {name}")


def pair_sums(x: torch.Tensor, pairs: int) -> torch.Tensor:
    both = x[..., :pairs] + x[..., pairs : 2 * pairs]
    return torch.cat((both, both, x[..., 2 * pairs :]), -1)


def test_in_bf16_sums_are_wider_and_the_dtype_is_kept():
    x = (torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0)) * 3).bfloat16().requires_grad_()
    for name, y, formula in cases(x, *angles(5, 8)):
        expected = formula(x.detach().double())
        assert y.dtype == torch.bfloat16
        # One rounding to bf16 at the end, from fp32 or wider.
        assert_within(
            y.detach(), expected, 1.01 * UNIT[torch.bfloat16] * expected.abs() + gamma(64) * (1 + expected.abs()), name
        )
        (gradient,) = torch.autograd.grad(y.float().sum(), x)
        assert gradient.dtype == torch.bfloat16


def test_a_second_derivative_is_refused():
    x = torch.randn(3, 4, requires_grad=True)
    (first,) = torch.autograd.grad(squared_relu(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_at_its_rate_and_scales_what_is_kept(rate, dtype):
    torch.manual_seed(0)
    y = Dropout(rate)(torch.ones(1000, 1001, dtype=dtype))  # not a multiple of the four decisions in a word
    dropped = (y == 0).double()
    deviation = (rate * (1 - rate) / y.numel()) ** 0.5
    assert abs(dropped.mean() - rate) < 4 * deviation + 1 / 65_536
    torch.testing.assert_close(
        y[y != 0].double().unique(),
        torch.tensor([1 / (1 - rate)], dtype=torch.double),
        rtol=1e-2 if dtype == torch.bfloat16 else 1e-4,
        atol=0,
    )


def test_dropouts_decisions_are_independent():
    torch.manual_seed(0)
    dropped = (Dropout(0.3)(torch.ones(1 << 20)) == 0).double() - 0.3
    for apart in (1, 2, 3, 4, 5, 8, 64, 384):
        correlation = (dropped[:-apart] * dropped[apart:]).mean() / (0.3 * 0.7)
        assert abs(correlation) < 4 / 1024, apart  # deviation 1/sqrt(2^20)
    again = (Dropout(0.3)(torch.ones(1 << 20)) == 0).double() - 0.3
    assert abs((dropped * again).mean() / (0.3 * 0.7)) < 4 / 1024


def test_dropout_follows_the_seed_and_passes_gradients_of_kept_elements():
    x = torch.randn(7, 11, requires_grad=True)
    torch.manual_seed(5)
    y = Dropout(0.4)(x)
    torch.manual_seed(5)
    assert torch.equal(y, Dropout(0.4)(x))
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    assert_within(x.grad * x.detach(), y.detach().double(), gamma(1) * y.detach().double().abs())


def test_dropout_changes_nothing_in_eval_mode_and_at_rate_zero():
    x = torch.randn(5, 5)
    assert torch.equal(Dropout(0.4).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_a_rate_near_one_gives_zeros_and_no_infinity():
    assert torch.equal(Dropout(1 - 1e-7)(torch.ones(100)), F.relu(-torch.ones(100)))


def test_without_gradients_the_values_are_the_same():
    """In float64 to 1e-14: neither path uses a narrower type."""
    x = normal(2, 3, 5, 16, seed=3) / 3  # numbers that fp32 cannot represent
    with_gradients = [y.detach() for _, y, _ in cases(x.clone().requires_grad_(), *angles(5, 8, torch.float64))]
    with torch.no_grad():
        without = [y for _, y, _ in cases(x, *angles(5, 8, torch.float64))]
    for one, other in zip(with_gradients, without, strict=True):
        assert_formula(one, other, roundings=100)
