"""The operations in few passes compute what their plain formulas say, gradients too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from minigpt.elementwise import Dropout, rms_norm, squared_relu, turn

SEEDS = st.integers(0, 10_000)


def angles(time: int, pairs: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.arange(time, dtype=dtype)[:, None] * 100.0 ** -(torch.arange(pairs, dtype=dtype) / pairs)
    return angle.cos(), angle.sin()


def plain_rms_norm(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def plain_turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    pairs = cos.shape[-1]
    numbers = torch.complex(x[..., :pairs], x[..., pairs : 2 * pairs]) * torch.complex(cos, sin)
    return torch.cat((numbers.real, numbers.imag, x[..., 2 * pairs :]), -1)


def cases(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor):
    yield "rms_norm", rms_norm(x, 1e-6), plain_rms_norm
    yield "squared_relu", squared_relu(x), lambda x: x.clamp(min=0) ** 2
    yield "turn", turn(x, cos, sin), lambda x: plain_turn(x, cos.to(x.dtype), sin.to(x.dtype))


@given(seed=SEEDS, time=st.integers(1, 9), pairs=st.integers(1, 8), beyond=st.integers(0, 3), across=st.booleans())
def test_values_and_gradients_are_those_of_the_formula(seed, time, pairs, beyond, across):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, time, 2 * pairs + beyond, generator=generator)
    if across:  # heads as they come out of a projection: not contiguous
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    x.requires_grad_()
    reference = x.detach().double().requires_grad_()
    g = torch.randn(x.shape, generator=generator)
    for name, y, formula in cases(x, *angles(time, pairs)):
        expected = formula(reference)
        (gradient,) = torch.autograd.grad(y, x, g)
        (expected_gradient,) = torch.autograd.grad(expected, reference, g.double())
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5, msg=name)
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=2e-5, msg=name)


def test_in_bf16_sums_are_wide_and_the_dtype_is_kept():
    x = (torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(0)) * 3).bfloat16().requires_grad_()
    for name, y, formula in cases(x, *angles(5, 8)):
        expected = formula(x.detach().double())
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-6, msg=name)  # one rounding, at the end
        (gradient,) = torch.autograd.grad(y.float().sum(), x)
        assert gradient.dtype == torch.bfloat16


def test_a_second_derivative_is_refused_and_not_wrong():
    x = torch.randn(3, 4, requires_grad=True)
    (first,) = torch.autograd.grad(squared_relu(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_at_its_rate_and_scales_what_is_kept(rate, dtype):
    torch.manual_seed(0)
    y = Dropout(rate)(torch.ones(1000, 1001, dtype=dtype))  # no multiple of the four decisions in a word
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


def test_dropout_is_the_same_under_a_seed_and_passes_the_gradient_of_what_it_kept():
    x = torch.randn(7, 11, requires_grad=True)
    torch.manual_seed(5)
    y = Dropout(0.4)(x)
    torch.manual_seed(5)
    assert torch.equal(y, Dropout(0.4)(x))
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    torch.testing.assert_close(x.grad * x, y)


def test_dropout_leaves_all_as_it_is_in_eval_mode_and_at_rate_zero():
    x = torch.randn(5, 5)
    assert torch.equal(Dropout(0.4).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_a_rate_near_one_gives_zeros_and_no_infinity():
    assert torch.equal(Dropout(1 - 1e-7)(torch.ones(100)), F.relu(-torch.ones(100)))


def test_without_gradients_the_values_are_the_same():
    x = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(3))
    with_gradients = [y.detach() for _, y, _ in cases(x.clone().requires_grad_(), *angles(5, 8))]
    with torch.no_grad():
        without = [y for _, y, _ in cases(x, *angles(5, 8))]
    for one, other in zip(with_gradients, without, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
