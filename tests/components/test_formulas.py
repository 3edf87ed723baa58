"""Each mechanism against its paper's formula, written plainly in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.contracts import Context, Dims, Position
from minigpt.registry import REGISTRY

DIMS = Dims(d_model=12, n_layers=2, n_heads=4, head_dim=6, block_size=16, vocab_size=9, dropout=0.0)


def build(family: str, name: str, *received: Any, **params: Any) -> Any:
    torch.manual_seed(1)
    component = REGISTRY.resolve(family, {"name": name, **params}).build(*received)
    for parameter in component.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return component


def context(position: Position | None = None, time: int = 7, batch: int = 2) -> Context:
    ids = torch.arange(batch * time).view(batch, time) % DIMS.vocab_size
    return Context(torch.arange(time), position or build("position", "none", DIMS), ids)


def linear(x: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    y = x @ layer.weight.double().T
    return y if layer.bias is None else y + layer.bias.double()


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


def turned(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """RoFormer, equation 15, as complex multiplication; pairs (i, i + K/2)."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-2 * torch.arange(half, dtype=torch.float64) / x.shape[-1])
    turns = torch.polar(torch.ones(len(positions), half, dtype=torch.float64), positions[:, None].double() * frequency)
    pairs = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * turns
    return torch.cat((pairs.real, pairs.imag), -1)


@pytest.mark.parametrize(("name", "params", "kv_heads"), [("mha", {}, 4), ("gqa", {}, 2), ("gqa", {"n_kv_heads": 1}, 1)])
def test_attention_is_the_papers(name: str, params: dict[str, Any], kv_heads: int) -> None:
    module = build("attention", name, DIMS, **params)
    x = torch.randn(2, 7, 12)
    expected = reference_attention(module, x.double(), 4, kv_heads, 6)
    torch.testing.assert_close(module(x, context()).double(), expected, atol=1e-5, rtol=1e-5)


def test_attention_gradients_are_the_papers() -> None:
    module = build("attention", "gqa", DIMS)
    x = torch.randn(2, 7, 12)
    module(x, context()).square().sum().backward()
    got = {name: parameter.grad.double() for name, parameter in module.named_parameters()}
    module.zero_grad()
    double = module.double()
    reference_attention(double, x.double(), 4, 2, 6).square().sum().backward()
    for name, parameter in double.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-3, rtol=1e-4)


def test_rope_turns_pairs_by_their_frequency_times_the_position() -> None:
    module = build("attention", "mha", DIMS)
    x = torch.randn(2, 7, 12)
    got = module(x, context(build("position", "rope", DIMS)))
    torch.testing.assert_close(got.double(), reference_attention(module, x.double(), 4, 4, 6, turned), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gate", ["head", "element"])
def test_the_gate_is_a_sigmoid_of_the_input_on_each_heads_output(gate: str) -> None:
    module = build("attention", "mha", DIMS, gate=gate)
    x = torch.randn(2, 7, 12)
    y = x.double()
    bare = build("attention", "mha", DIMS)
    bare.load_state_dict({name: tensor for name, tensor in module.state_dict().items() if "gate" not in name})
    identity = torch.nn.Linear(24, 24, bias=False)
    torch.nn.init.eye_(identity.weight)
    out, bare.out = bare.out, identity
    heads = reference_attention(bare, y, 4, 4, 6).unflatten(-1, (4, 6))
    gates = torch.sigmoid(linear(y, module.gate)).unflatten(-1, (4, -1))
    expected = linear((heads * gates).flatten(-2), out)
    torch.testing.assert_close(module(x, context()).double(), expected, atol=1e-5, rtol=1e-5)


def test_the_value_residual_mixes_in_the_first_layers_values() -> None:
    first, second = (build("attention", "mha", DIMS, value_residual=True) for _ in range(2))
    second.load_state_dict({name: tensor.flip(0) for name, tensor in first.state_dict().items()})
    ctx = context()
    x = torch.randn(2, 7, 12)
    first(x, ctx)
    got = second(x, ctx)
    values = [linear(x.double(), layer.qkv)[..., 48:] for layer in (first, second)]
    a, b = second.value_mix.double()
    mixed = a * values[1] + b * values[0]
    plain = build("attention", "mha", DIMS)
    plain.load_state_dict({name: tensor for name, tensor in second.state_dict().items() if name != "value_mix"})

    class Given(torch.nn.Linear):  # queries and keys of the second layer, values as mixed
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat((super().forward(x)[..., :48], mixed.to(x.dtype)), -1)

    given = Given(12, 72)
    given.load_state_dict(plain.qkv.state_dict())
    plain.qkv = given
    torch.testing.assert_close(got, plain(x, context()), atol=1e-5, rtol=1e-5)


@given(st.integers(0, 4000), st.integers(0, 4000), st.integers(0, 60))
def test_rope_scores_depend_on_distance_only_and_norms_are_kept(first: int, shift: int, distance: int) -> None:
    rope = build("position", "rope", DIMS)
    q, k = torch.randn(1, 4, 1, 6), torch.randn(1, 4, 1, 6)

    def score(at: int) -> torch.Tensor:
        turned_q = rope.rotate(q, k, torch.tensor([at + distance]))[0]
        turned_k = rope.rotate(q, k, torch.tensor([at]))[1]
        assert torch.allclose(turned_q.norm(dim=-1), q.norm(dim=-1), atol=1e-5)
        return (turned_q * turned_k).sum(-1)

    torch.testing.assert_close(score(first), score(first + shift), atol=5e-3, rtol=1e-3)


def test_sinusoidal_is_the_papers_table() -> None:
    position = build("position", "sinusoidal", DIMS, scale=1.5, base=50.0)
    got = position.embed(torch.zeros(1, 5, 12), torch.arange(3, 8))[0]
    for row, place in zip(got, range(3, 8), strict=True):
        for i in range(6):
            angle = place / 50.0 ** (2 * i / 12)
            assert row[2 * i].item() == pytest.approx(1.5 * math.sin(angle), abs=1e-5)
            assert row[2 * i + 1].item() == pytest.approx(1.5 * math.cos(angle), abs=1e-5)


def test_learned_positions_add_their_row() -> None:
    position = build("position", "learned", DIMS)
    x = torch.randn(2, 3, 12)
    assert torch.equal(position.embed(x, torch.arange(4, 7)), x + position.table.weight[4:7])
    assert position.max_positions == 16


@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_is_the_papers(bias: bool) -> None:
    norm = build("norm", "layernorm", 12, bias=bias, eps=1e-3)
    x = torch.randn(3, 5, 12) * 3 + 1
    y = x.double()
    expected = (
        (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-3).sqrt() * norm.weight.double()
    )
    expected = expected + norm.bias.double() if bias else expected
    torch.testing.assert_close(norm(x).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gain", [True, False])
def test_rmsnorm_is_the_papers_and_forgets_the_scale_of_its_input(gain: bool) -> None:
    norm = build("norm", "rmsnorm", 12, gain=gain, eps=1e-6)
    x = torch.randn(3, 5, 12) * 3 + 1
    y = x.double()
    expected = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (norm.weight.double() if gain else 1)
    torch.testing.assert_close(norm(x).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm(x * 1000), norm(x), atol=1e-5, rtol=1e-5)


def test_dyt_and_derf_are_the_papers() -> None:
    x = torch.randn(3, 5, 12) * 3 + 1
    y = x.double()
    dyt, derf = build("norm", "dyt", 12), build("norm", "derf", 12)
    expected = torch.tanh(dyt.alpha.double() * y) * dyt.weight.double() + dyt.bias.double()
    torch.testing.assert_close(dyt(x).double(), expected, atol=1e-5, rtol=1e-5)
    expected = torch.erf(derf.alpha.double() * y + derf.shift.double()) * derf.weight.double() + derf.bias.double()
    torch.testing.assert_close(derf(x).double(), expected, atol=1e-5, rtol=1e-5)
    fresh = REGISTRY.resolve("norm", {"name": "derf", "alpha": 0.7}).build(4)
    assert (fresh.alpha.item(), fresh.shift.item()) == (pytest.approx(0.7), 0)


def test_scalenorm_gives_every_vector_the_trained_length() -> None:
    norm = build("norm", "scalenorm", 12)
    x = torch.randn(3, 5, 12) * 3 + 1
    expected = norm.weight.double() * x.double() / (x.double().norm(dim=-1, keepdim=True) ** 2 + 1e-5).sqrt()
    torch.testing.assert_close(norm(x).double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(norm(torch.zeros(2, 12))).all()
    assert REGISTRY.resolve("norm", "scalenorm").build(16).weight.item() == 4


def test_no_norm_is_the_identity() -> None:
    x = torch.randn(3, 12)
    assert build("norm", "none", 12)(x) is x


ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: x.clamp(min=0),
    "relu2": lambda x: x.clamp(min=0) ** 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_the_papers(activation: str) -> None:
    ffn = build("ffn", "mlp", DIMS, activation=activation, expansion=2.5)
    assert ffn.into.weight.shape == (30, 12)
    x = torch.randn(2, 3, 12)
    expected = linear(ACTIVATIONS[activation](linear(x.double(), ffn.into)), ffn.out)
    torch.testing.assert_close(ffn(x, context(time=3)).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("variant", "activation"),
    [("swiglu", "silu"), ("geglu", "gelu"), ("geglu_tanh", "gelu_tanh"), ("reglu", "relu")],
)
def test_glu_is_the_papers(variant: str, activation: str) -> None:
    ffn = build("ffn", "glu", DIMS, variant=variant, bias=True)
    x = torch.randn(2, 3, 12)
    gate, value = linear(x.double(), ffn.into).split(32, -1)
    expected = linear(ACTIVATIONS[activation](gate) * value, ffn.out)
    torch.testing.assert_close(ffn(x, context(time=3)).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [entry.name for entry in REGISTRY.entries("ffn")])
def test_a_feed_forward_without_state_acts_on_each_position_alone(name: str) -> None:
    ffn = build("ffn", name, DIMS)
    assert ffn.new_state(1, 4, torch.device("cpu"), torch.float32) is None
    x = torch.randn(2, 5, 12)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(ffn(x, context(time=5))[:, order], ffn(x[:, order], context(time=5)))
