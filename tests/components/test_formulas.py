"""Each mechanism against its paper's formula, written plainly in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.registry import REGISTRY
from tests.components.formulas import ACTIVATIONS, DIMS, build, context, linear, turned
from tests.rounding import UNIT, assert_formula, normal


def reference_attention(
    module: Any, x: torch.Tensor, heads: int, kv_heads: int, width: int, turn: Any = None
) -> torch.Tensor:
    """Attention as in Vaswani et al. 2017, section 3.2, one head and one query at a time."""
    mixed = linear(x, module.qkv)
    q, k, v = mixed.split((heads * width, kv_heads * width, kv_heads * width), -1)
    batch, time = x.shape[:2]
    out = torch.zeros(batch, time, heads * width, dtype=torch.float64)
    for head in range(heads):
        group = head // (heads // kv_heads)
        mine, theirs = slice(head * width, (head + 1) * width), slice(group * width, (group + 1) * width)
        for t in range(time):
            query, keys = q[:, t, mine], k[:, : t + 1, theirs]
            if turn:
                query = turn(query[:, None], torch.tensor([t]))[:, 0]
                keys = turn(keys, torch.arange(t + 1))
            weights = ((keys @ query[..., None]).squeeze(-1) / math.sqrt(width)).softmax(-1)
            out[:, t, mine] = (weights[:, None] @ v[:, : t + 1, theirs]).squeeze(1)
    return linear(out, module.out)


@pytest.mark.parametrize(("name", "params", "kv_heads"), [("mha", {}, 4), ("gqa", {}, 2), ("gqa", {"n_kv_heads": 1}, 1)])
def test_attention_computes_the_papers_formula(name: str, params: dict[str, Any], kv_heads: int) -> None:
    module = build("attention", name, DIMS, **params)
    x = normal(2, 7, 12)
    expected = reference_attention(module, x, 4, kv_heads, 6)
    assert_formula(module(x, context()), expected)


def test_attention_gradients_match_the_papers_formula() -> None:
    module = build("attention", "gqa", DIMS)
    x, parameters = normal(2, 7, 12), dict(module.named_parameters())
    got = torch.autograd.grad(module(x, context()).square().sum(), parameters.values())
    expected = torch.autograd.grad(reference_attention(module, x, 4, 2, 6).square().sum(), parameters.values())
    for name, one, other in zip(parameters, got, expected, strict=True):
        assert_formula(one, other, name)


def test_rope_rotates_pairs_by_their_frequency_times_the_position() -> None:
    module = build("attention", "mha", DIMS)
    x = normal(2, 7, 12)
    got = module(x, context(build("position", "rope", DIMS)))
    assert_formula(got, reference_attention(module, x, 4, 4, 6, turned))


@pytest.mark.parametrize("gate", ["head", "element"])
def test_the_gate_is_a_sigmoid_of_the_input_on_each_heads_output(gate: str) -> None:
    module = build("attention", "mha", DIMS, gate=gate)
    x = normal(2, 7, 12)
    bare = build("attention", "mha", DIMS)
    bare.load_state_dict({name: tensor for name, tensor in module.state_dict().items() if "gate" not in name})
    identity = torch.nn.Linear(24, 24, bias=False, dtype=torch.float64)
    torch.nn.init.eye_(identity.weight)
    out, bare.out = bare.out, identity
    heads = reference_attention(bare, x, 4, 4, 6).unflatten(-1, (4, 6))
    gates = torch.sigmoid(linear(x, module.gate)).unflatten(-1, (4, -1))
    expected = linear((heads * gates).flatten(-2), out)
    assert_formula(module(x, context()), expected)


def test_the_value_residual_mixes_in_the_first_layers_values() -> None:
    first, second = (build("attention", "mha", DIMS, value_residual=True) for _ in range(2))
    second.load_state_dict({name: tensor.flip(0) for name, tensor in first.state_dict().items()})
    ctx = context()
    x = normal(2, 7, 12)
    first(x, ctx)
    got = second(x, ctx)
    values = [linear(x, layer.qkv)[..., 48:] for layer in (first, second)]
    a, b = second.value_mix
    mixed = a * values[1] + b * values[0]
    plain = build("attention", "mha", DIMS)
    plain.load_state_dict({name: tensor for name, tensor in second.state_dict().items() if name != "value_mix"})

    class Given(torch.nn.Linear):  # queries and keys of the second layer, values as mixed
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat((super().forward(x)[..., :48], mixed), -1)

    given = Given(12, 72, dtype=torch.float64)
    given.load_state_dict(plain.qkv.state_dict())
    plain.qkv = given
    assert_formula(got, plain(x, context()))


@given(st.integers(0, 4000), st.integers(0, 4000), st.integers(0, 60))
def test_rope_scores_depend_on_distance_only_and_norms_are_kept(first: int, shift: int, distance: int) -> None:
    rope = build("position", "rope", DIMS)
    q, k = normal(1, 4, 1, 6), normal(1, 4, 1, 6)

    def score(at: int) -> torch.Tensor:
        turned_q = rope.rotate(q, k, torch.tensor([at + distance]))[0]
        turned_k = rope.rotate(q, k, torch.tensor([at]))[1]
        assert_formula(turned_q.norm(dim=-1), q.norm(dim=-1))
        return (turned_q * turned_k).sum(-1)

    assert_formula(score(first), score(first + shift))


def test_sinusoidal_is_the_papers_table() -> None:
    position = build("position", "sinusoidal", DIMS, scale=1.5, base=50.0)
    got = position.embed(torch.zeros(1, 5, 12, dtype=torch.float64), torch.arange(3, 8))[0]
    for row, place in zip(got, range(3, 8), strict=True):
        for i in range(6):
            angle = place / 50.0 ** (2 * i / 12)
            assert row[2 * i].item() == pytest.approx(1.5 * math.sin(angle), abs=1e-12)
            assert row[2 * i + 1].item() == pytest.approx(1.5 * math.cos(angle), abs=1e-12)


def test_learned_positions_add_the_row_of_each_position() -> None:
    position = build("position", "learned", DIMS)
    x = normal(2, 3, 12)
    assert torch.equal(position.embed(x, torch.arange(4, 7)), x + position.table.weight[4:7])
    assert position.max_positions == 16


@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_computes_the_papers_formula(bias: bool) -> None:
    norm = build("norm", "layernorm", 12, bias=bias, eps=1e-3)
    x = normal(3, 5, 12) * 3 + 1
    deviation = (x.var(-1, unbiased=False, keepdim=True) + 1e-3).sqrt()
    expected = (x - x.mean(-1, keepdim=True)) / deviation * norm.weight
    expected = expected + norm.bias if bias else expected
    assert_formula(norm(x), expected)


@pytest.mark.parametrize("gain", [True, False])
def test_rmsnorm_computes_the_papers_formula_and_ignores_the_scale_of_its_input(gain: bool) -> None:
    x = normal(3, 5, 12) * 3 + 1
    for eps in (1e-6, 1e-30):
        norm = build("norm", "rmsnorm", 12, gain=gain, eps=eps)
        assert_formula(norm(x), x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * (norm.weight if gain else 1))
    assert_formula(norm(1000 * x), norm(x))


def test_dyt_and_derf_compute_the_papers_formulas() -> None:
    x = normal(3, 5, 12) * 3 + 1
    dyt, derf = build("norm", "dyt", 12), build("norm", "derf", 12)
    expected = torch.tanh(dyt.alpha * x) * dyt.weight + dyt.bias
    assert_formula(dyt(x), expected)
    expected = torch.erf(derf.alpha * x + derf.shift) * derf.weight + derf.bias
    assert_formula(derf(x), expected)
    fresh = REGISTRY.resolve("norm", {"name": "derf", "alpha": 0.7}).build(4)
    assert (fresh.alpha.item(), fresh.shift.item()) == (pytest.approx(0.7, rel=UNIT[torch.float32]), 0)


def test_scalenorm_gives_every_vector_the_trained_length() -> None:
    norm = build("norm", "scalenorm", 12)
    x = normal(3, 5, 12) * 3 + 1
    expected = norm.weight * x / (x.norm(dim=-1, keepdim=True) ** 2 + 1e-5).sqrt()
    assert_formula(norm(x), expected)
    assert torch.isfinite(norm(torch.zeros(2, 12, dtype=torch.float64))).all()
    assert REGISTRY.resolve("norm", "scalenorm").build(16).weight.item() == 4


def test_no_norm_is_the_identity() -> None:
    x = normal(3, 12)
    assert build("norm", "none", 12)(x) is x


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_computes_the_papers_formula(activation: str) -> None:
    ffn = build("ffn", "mlp", DIMS, activation=activation, expansion=2.5)
    assert ffn.into.weight.shape == (30, 12)
    x = normal(2, 3, 12)
    expected = linear(ACTIVATIONS[activation](linear(x, ffn.into)), ffn.out)
    assert_formula(ffn(x, context(time=3)), expected)


@pytest.mark.parametrize(
    ("variant", "activation"),
    [("swiglu", "silu"), ("geglu", "gelu"), ("geglu_tanh", "gelu_tanh"), ("reglu", "relu")],
)
def test_glu_computes_the_papers_formula(variant: str, activation: str) -> None:
    ffn = build("ffn", "glu", DIMS, variant=variant, bias=True)
    x = normal(2, 3, 12)
    gate, value = linear(x, ffn.into).split(32, -1)
    expected = linear(ACTIVATIONS[activation](gate) * value, ffn.out)
    assert_formula(ffn(x, context(time=3)), expected)


@pytest.mark.parametrize("name", [entry.name for entry in REGISTRY.entries("ffn")])
def test_a_feed_forward_without_state_acts_on_each_position_separately(name: str) -> None:
    ffn = build("ffn", name, DIMS)
    assert ffn.new_state(1, 4, torch.device("cpu"), torch.float32) is None
    x = normal(2, 5, 12)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert_formula(ffn(x, context(time=5))[:, order], ffn(x[:, order], context(time=5)))
