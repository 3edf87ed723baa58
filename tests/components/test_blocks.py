"""Each block against its paper's formula, with any parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from minigpt.model import GPT
from minigpt.registry import REGISTRY
from tests.components.blocks import EXACT, block_of, layer_of, model_section
from tests.components.formulas import DIMS, build, context
from tests.rounding import assert_formula, assert_within, gamma, normal
from tests.strategies import VOCAB, model_with_large_weights, tokens

Map = Callable[[torch.Tensor], torch.Tensor]


def pre_norm(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    x = x + attention(b.attention_norm(x))
    return x + ffn(b.ffn_norm(x))


def post_norm(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    x = b.attention_norm(x + attention(x))
    return b.ffn_norm(x + ffn(x))


def parallel(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    return x + attention(b.attention_norm(x)) + ffn((b.ffn_norm or b.attention_norm)(x))


def sandwich(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    x = x + b.attention_out_norm(attention(b.attention_norm(x)))
    return x + b.ffn_out_norm(ffn(b.ffn_norm(x)))


def reordered(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    x = x + b.attention_norm(attention(x))
    return x + b.ffn_norm(ffn(x))


def mixer_only(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    return x + attention(b.attention_norm(x))


def rezero(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    x = x + b.weight * attention(x)
    return x + b.weight * ffn(x)


def layerscale(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    x = x + attention(b.attention_norm(x)) @ torch.diag(b.attention_scale)
    return x + ffn(b.ffn_norm(x)) @ torch.diag(b.ffn_scale)


def deepnorm(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    alpha = (2 * DIMS.n_layers) ** (1 / 4)
    x = b.attention_norm(alpha * x + attention(x))
    return b.ffn_norm(alpha * x + ffn(x))


def hyper_connections(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    """Equations 2 to 5 and 10 to 13, one token's matrix of streams at a time."""

    def connected(c: Any, streams: torch.Tensor, sublayer: Map) -> torch.Tensor:
        n = streams.shape[2]
        read, rest = torch.zeros_like(streams[:, :, 0]), torch.zeros_like(streams)
        write = torch.zeros(*streams.shape[:3], dtype=streams.dtype)
        for row in range(streams.shape[0]):
            for t in range(streams.shape[1]):
                h = streams[row, t]
                a_m, a_r, beta = c.read[:, 0], c.read[:, 1:], c.write
                if c.norm is not None:
                    normed = c.norm(h)
                    a_m = a_m + c.read_scale * torch.tanh(normed @ c.dynamic[0])
                    a_r = a_r + c.read_scale * torch.tanh(normed @ c.dynamic[1 : n + 1].T)
                    beta = beta + c.write_scale * torch.tanh(normed @ c.dynamic[n + 1])
                read[row, t], rest[row, t], write[row, t] = a_m @ h, a_r.T @ h, beta
        return rest + torch.einsum("btn,btd->btnd", write, sublayer(read))

    x = connected(b.attention_connection, x, lambda y: attention(b.attention_norm(y)))
    return connected(b.ffn_connection, x, lambda y: ffn(b.ffn_norm(y)))


def ngpt(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    def unit(z: torch.Tensor) -> torch.Tensor:
        return z / (z.square().mean(-1, keepdim=True) + 1e-8).sqrt()

    for sublayer, stored in ((attention, b.attention_step), (ffn, b.ffn_step)):
        x = unit(x + (stored * 0.05 * math.sqrt(12)).abs() * (unit(sublayer(x)) - x))
    return x


FORMULAS: dict[str, Callable[..., torch.Tensor]] = {
    "pre_norm": pre_norm,
    "post_norm": post_norm,
    "parallel": parallel,
    "sandwich": sandwich,
    "reordered": reordered,
    "mixer_only": mixer_only,
    "rezero": rezero,
    "layerscale": layerscale,
    "deepnorm": deepnorm,
    "hyper_connections": hyper_connections,
    "ngpt": ngpt,
    "unet": pre_norm,  # in the first half; the second half has other tests
}


def test_every_block_has_a_formula_in_this_file() -> None:
    assert sorted(FORMULAS) == [entry.name for entry in REGISTRY.entries("block")]


@pytest.mark.parametrize(
    ("name", "params"),
    [(name, {}) for name in FORMULAS]
    + [("parallel", {"shared_norm": False}), ("hyper_connections", {"n_streams": 3, "dynamic": False})],
    ids=str,
)
def test_the_block_computes_its_formula(name: str, params: dict[str, Any]) -> None:
    block = block_of(name, **params)
    ctx = context()
    stream = block.enter(normal(2, 7, 12))
    stream = (stream + torch.randn_like(stream)).requires_grad_()  # if there are several streams, no two are equal
    expected = FORMULAS[name](block, stream, lambda y: block.attention(y, ctx), lambda y: block.ffn(y, ctx))
    got = block(stream, ctx)
    assert_formula(got, expected)
    inputs, probe = [stream, *block.parameters()], torch.randn_like(got)
    for g, e in zip(torch.autograd.grad(got, inputs, probe), torch.autograd.grad(expected, inputs, probe), strict=True):
        assert_formula(g, e, "gradient")


def test_rezero_is_the_identity_at_first() -> None:
    block = REGISTRY.resolve("block", "rezero").build(DIMS, layer_of(norm="none"))
    x = torch.randn(2, 7, 12)
    assert torch.equal(block(x, context()), x)


def test_layerscale_starts_small() -> None:
    block = REGISTRY.resolve("block", {"name": "layerscale", "scale": 0.01}).build(DIMS, layer_of(norm="none"))
    assert block.attention_scale.tolist() == block.ffn_scale.tolist() == pytest.approx([0.01] * 12)


@pytest.mark.parametrize("name", FORMULAS)
def test_only_these_blocks_end_normalised(name: str) -> None:
    assert block_of(name).final_norm is (name not in ("post_norm", "deepnorm", "ngpt"))


# ------------------------------------------------------------------------------------------------------------- deepnorm


@pytest.mark.parametrize("ffn", [{"name": "mlp"}, {"name": "moe", "bias": True, "n_shared": 1}])
def test_deepnorm_initialises_feed_forward_and_outputs_with_the_papers_gain(ffn: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = GPT(model_section(d_model=128, block="deepnorm", ffn=ffn), VOCAB)
    gain, seen = (8 * 3) ** (-1 / 4), 0
    for name, parameter in model.blocks.named_parameters():
        if "norm" in name:
            continue
        if name.endswith("bias"):
            assert not parameter.any(), name
            continue
        xavier = math.sqrt(2 / (parameter.shape[-1] + parameter.shape[-2]))
        expected = gain * xavier if ".ffn." in name or name.endswith("attention.out.weight") else 0.02
        assert parameter.std().item() == pytest.approx(expected, rel=0.08), name
        seen += 1
    assert seen == 3 * (4 if ffn["name"] == "mlp" else 7)


# ---------------------------------------------------------------------------------------------------- hyper_connections


@pytest.mark.parametrize("params", [{}, {"dynamic": False}, {"n_streams": 3}, {"n_streams": 1}], ids=str)
def test_hyper_connections_start_as_pre_norm(params: dict[str, Any]) -> None:
    plain = model_with_large_weights(model_section(block="pre_norm")).double()
    hyper = GPT(model_section(block={"name": "hyper_connections", **params}), VOCAB).double().eval()
    extra = hyper.load_state_dict(plain.state_dict(), strict=False)
    assert not extra.unexpected_keys
    assert all("_connection." in name for name in extra.missing_keys)
    for block in hyper.blocks:
        n = block.n_streams
        streams = block.enter(normal(2, 7, 16))
        assert streams.shape == (2, 7, n, 16)
        one = block(streams, context())
        assert_formula(one, one[:, :, :1].expand_as(one), "all streams stay equal")
        assert_formula(block.leave(one), one[:, :, 0])
    ids = tokens(2, 12, 0)
    with torch.no_grad():
        assert_formula(hyper(ids), plain(ids))


def test_streams_do_not_grow_at_the_border_with_another_block() -> None:
    plain = model_with_large_weights(model_section(block="pre_norm")).double()
    pattern = [{"block": "hyper_connections"}, {"block": "pre_norm"}]
    hybrid = GPT(model_section(layers=pattern), VOCAB).double().eval()
    hybrid.load_state_dict(plain.state_dict(), strict=False)
    ids = tokens(2, 12, 0)
    with torch.no_grad():
        assert_formula(hybrid(ids), plain(ids))


def test_each_sub_layer_first_reads_another_stream() -> None:
    blocks = GPT(model_section(block={"name": "hyper_connections", "n_streams": 4}), VOCAB).blocks
    connections = [c for block in blocks for c in (block.attention_connection, block.ffn_connection)]
    assert [c.read[:, 0].nonzero().item() for c in connections] == [0, 1, 2, 3, 0, 1]
    roles = {p.name.rpartition(".")[2]: p.role for p in GPT(model_section(block="hyper_connections"), VOCAB).named_roles()}
    assert (roles["read"], roles["write"], roles["dynamic"]) == ("vector", "vector", "matrix")


def test_residual_streams_keep_their_precision_under_autocast() -> None:
    block = block_of("hyper_connections", dynamic=False).float()
    for connection in (block.attention_connection, block.ffn_connection):
        torch.nn.init.zeros_(connection.write)  # outputs of sub-layers may be in bf16
    streams = torch.randn(2, 7, 4, 12)
    expected = streams.double()
    magnitudes = expected.abs()
    for connection in (block.attention_connection, block.ffn_connection):
        read = connection.read.detach()[:, 1:].double()
        expected = torch.einsum("nm,btnd->btmd", read, expected)
        magnitudes = torch.einsum("nm,btnd->btmd", read.abs(), magnitudes)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = block(streams, context())
    assert_within(got, expected, gamma(2 * 4) * magnitudes)  # two sums of four products


# ------------------------------------------------------------------------------------------------------------------ unet


def blockwise(block: Any, x: torch.Tensor, ctx: Any) -> torch.Tensor:
    return pre_norm(block, x, lambda y: block.attention(y, ctx), lambda y: block.ffn(y, ctx))


@pytest.mark.parametrize(("n_layers", "pairs"), [(1, {}), (2, {1: 0}), (3, {2: 0}), (4, {2: 1, 3: 0}), (5, {3: 1, 4: 0})])
def test_unet_joins_the_second_half_to_the_first(n_layers: int, pairs: dict[int, int]) -> None:
    model = model_with_large_weights(model_section(n_layers=n_layers, block="unet")).double()
    ids = tokens(2, 12, 0)
    ctx = replace(context(time=12), position=model.positions[0])
    x, outputs = model.embedding.weight[ids] + model.positions[0].table.weight[:12], []
    for index, block in enumerate(model.blocks):
        if index in pairs:
            x = x + block.skip_weight * outputs[pairs[index]]
        else:
            assert block.skip_weight is None
        x = blockwise(block, x, ctx)
        outputs.append(x)
    assert_formula(model.hidden(ids)[0], model.norm(x))
    fresh = GPT(model_section(n_layers=n_layers, block={"name": "unet", "weight": 0.3}), VOCAB)
    assert [fresh.blocks[index].skip_weight.item() for index in pairs] == pytest.approx([0.3] * len(pairs))


def test_unet_reads_the_plain_stream_of_any_other_block() -> None:
    pattern = [{"block": {"name": "hyper_connections", "n_streams": 2}}, {"block": "post_norm"}, {"block": "unet"}]
    model = model_with_large_weights(model_section(layers=pattern)).double()
    ids = tokens(2, 12, 0)
    ctx = replace(context(time=12), position=model.positions[0])
    first, second, third = model.blocks
    x = model.embedding.weight[ids] + model.positions[0].table.weight[:12]
    skip = first(x[:, :, None].repeat(1, 1, 2, 1), ctx).mean(2)
    x = blockwise(third, second(skip, ctx) + third.skip_weight * skip, ctx)
    assert_formula(model.hidden(ids)[0], model.norm(x))


# -------------------------------------------------------------------------------------------------- a layer without ffn


@pytest.mark.usefixtures("exact_lengths")
@pytest.mark.parametrize("name", ["post_norm", "deepnorm", "ngpt"])
def test_an_identity_feed_forward_has_no_effect_in_blocks_that_end_normalised(name: str) -> None:
    block = REGISTRY.resolve("block", name).build(DIMS, layer_of(ffn="identity", norm=EXACT)).double()
    x = block.enter(normal(2, 7, 12) * 3)
    expected = {
        "post_norm": lambda: block.attention_norm(x + block.attention(x, context())),
        "deepnorm": lambda: block.attention_norm(math.sqrt(2) * x + block.attention(x, context())),
        "ngpt": lambda: block._step(x, block.attention(x, context()), block.attention_step),
    }[name]()
    assert_formula(block(x, context()), expected)
    ffn = build("ffn", "identity", DIMS)
    assert ffn(x, context()) is x
    assert not list(ffn.parameters())


def test_with_pre_norm_an_identity_feed_forward_adds_the_normalised_stream() -> None:
    block = REGISTRY.resolve("block", "pre_norm").build(DIMS, layer_of(ffn="identity")).double()
    x = normal(2, 7, 12)
    mixed = x + block.attention(block.attention_norm(x), context())
    expected = mixed + mixed / (mixed.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert_formula(block(x, context()), expected)
