"""What the rule of a recurrent mixer can do and where it ends: parity, eigenvalues, features, decays."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.contracts import Context
from minigpt.registry import REGISTRY
from tests.components.recurrent import D_MODEL, DIMS, HEADS, TIME, WIDTH, build, context
from tests.rounding import assert_formula, gamma, normal


def parity_layer(negative_eigenvalues: bool) -> Any:
    """A layer set by hand for the tokens start, 0, 1: start stores 1, every 1 changes the sign of the stored value."""
    dims = replace(DIMS, d_model=3, n_heads=1, head_dim=2)
    spec = {"name": "delta_net", "conv_width": 1, "negative_eigenvalues": negative_eigenvalues}
    layer = REGISTRY.resolve("attention", spec).build(dims)
    with torch.no_grad():
        for parameter in (layer.qkv.weight, layer.beta.weight, layer.out.weight):
            parameter.zero_()
        layer.qkv.weight[0] = layer.qkv.weight[2] = 5.0  # one direction for every query and key
        layer.qkv.weight[4, 0] = 5.0  # only start has a value
        layer.beta.weight[0] = torch.tensor([0.0, -30.0, 30.0])  # b = 1, 0, 2: store, keep, negate
        layer.out.weight[0, 0] = 1.0
    return layer


def test_with_negative_eigenvalues_a_layer_computes_parity() -> None:
    bits = torch.randint(0, 2, (4, 150), generator=torch.Generator().manual_seed(0))
    tokens = torch.cat((torch.zeros(4, 1, dtype=torch.long), bits + 1), 1)
    x = torch.nn.functional.one_hot(tokens, 3).float()
    signs = 1.0 - 2.0 * (bits.cumsum(1) % 2)
    ctx = Context(torch.arange(151), context(0, 1).position, tokens)
    signs_read = parity_layer(True)(x, ctx)[:, 1:, 0]
    torch.testing.assert_close(signs_read, math.sqrt(2) * signs, atol=1e-3, rtol=0)
    assert (parity_layer(False)(x, ctx)[:, :, 0] > -1e-3).all(), "the stored value never changes sign"


@given(st.integers(0, 999))
def test_eigenvalues_are_negative_only_if_the_parameter_is_set(seed: int) -> None:
    for name in ("delta_net", "gated_delta_net"):
        tokens = 5 * normal(20, 1, D_MODEL, seed=seed)
        least = {}
        for negative in (False, True):
            module = build(name, negative_eigenvalues=negative, conv_width=1)
            afters = []
            for start in (0.0, 1.0):  # a step is affine in the matrix: its linear part is the difference
                state = module.new_state(20, 1, torch.device("cpu"), torch.float64)
                state.tensors["matrix"] += start * torch.eye(WIDTH, module.value_dim)
                with torch.no_grad():
                    module(tokens, context(0, 1), state)
                afters.append(state.tensors["matrix"][..., :WIDTH])
            least[negative] = torch.linalg.eigvalsh(afters[1] - afters[0]).min().item()
        assert least[False] > -1e-12
        assert -1 - 1e-12 < least[True] < -0.1


def test_a_gated_delta_net_that_never_decays_is_a_delta_net() -> None:
    gated = build("gated_delta_net", expand_v=1.0, output_gate=False)
    plain = build("delta_net")
    plain.load_state_dict({key: value for key, value in gated.state_dict().items() if key in plain.state_dict()})
    x = normal(2, TIME, D_MODEL)
    assert not torch.allclose(gated(x, context(0, TIME)), plain(x, context(0, TIME)), atol=1e-3)
    torch.nn.init.constant_(gated.decay.A_log, -math.inf)
    assert_formula(gated(x, context(0, TIME)), plain(x, context(0, TIME)))


def test_linear_attention_returns_zero_if_no_feature_is_positive() -> None:
    module = build("linear", feature_map="relu")
    with torch.no_grad():
        module.qkv.weight[: HEADS * WIDTH] = 0
    x = normal(2, 5, D_MODEL).requires_grad_()
    y = module(x, context(0, 5))
    y.sum().backward()
    assert (y == 0).all()
    assert torch.isfinite(x.grad).all()


def test_elu_distinguishes_small_features() -> None:
    """elu(x) + 1 is e^x for negative x, and e^-20 is below the rounding of 1 in fp32."""
    module = build("linear").float()
    x = torch.tensor([-20.0, -60.0])
    # e^x magnifies the rounding of its exponent; four more units are the library's.
    assert ((module.features(x).double() / x.double().exp() - 1).abs() <= gamma(4)).all()


def test_gla_decays_by_at_most_a_sigmoid_of_minus_40_per_token() -> None:
    module = build("gla")
    x, outputs = normal(2, TIME, D_MODEL), []
    for bias in (-30.0, -60.0, -400.0):
        torch.nn.init.constant_(module.decay[1].bias, bias)
        outputs.append(module(x, context(0, TIME)))
    assert not torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[1], outputs[2])
