"""nGPT: weights and stream on the sphere, held to the paper."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from minigpt.model import GPT
from minigpt.registry import REGISTRY
from tests.components.blocks import EXACT, block_of, layer_of, model_section
from tests.components.formulas import DIMS, context, turned
from tests.rounding import UNIT, assert_formula, gamma, normal
from tests.strategies import VOCAB, model_with_large_weights, tokens

NGPT: dict[str, Any] = {
    "block": "ngpt",
    "attention": {"name": "mha", "bias": False, "qk_norm": EXACT},
    "ffn": {"name": "glu", "gain": True},
    "position": "rope",
    "embedding": {"name": "table", "unit": True, "tied": False},
}


def test_maps_that_do_not_read_the_stream_are_not_constrained_at_any_width() -> None:
    """Four heads of 4 make mla's latent 16 wide, as wide as the stream."""
    model = model_with_large_weights(model_section(block="ngpt", attention="mla")).double()
    attention = model.blocks[0].attention
    assert attention.kv_up.weight.shape[1] == model.dims.d_model
    before = attention.kv_up.weight.clone()
    model.after_step()
    assert torch.equal(attention.kv_up.weight, before)
    lengths = attention.kv_down.weight.norm(dim=1)
    assert_formula(lengths, torch.ones_like(lengths))


def unit(z: torch.Tensor, dim: int = -1) -> torch.Tensor:
    return z / z.norm(dim=dim, keepdim=True)


def trained_ngpt(**changes: Any) -> GPT:
    """A model with gains and steps away from their initial values, and weights on the sphere."""
    model = model_with_large_weights(model_section(**NGPT, **changes)).double()
    for block in model.blocks:
        for norm in (block.attention.q_norm, block.attention.k_norm):
            norm.weight.data = (
                torch.rand(2).double().repeat(2) + 0.5
            )  # equal within a pair, so that the rotation does not matter
    model.after_step()
    return model


def ngpt_of_the_paper(model: GPT, ids: torch.Tensor) -> torch.Tensor:
    """Table 1 and sections 2.1 to 2.6: every vector of length 1, one head and one query at a time, in the weights' dtype."""
    heads, width, d = 4, 4, 16
    h = unit(model.embedding.weight)[ids]
    for block in model.blocks:
        q, k, v = (part.unflatten(-1, (heads, width)) for part in (h @ block.attention.qkv.weight.T).chunk(3, -1))
        mixed = torch.zeros_like(v)
        for head in range(heads):
            query, key = turned(q[:, :, head], torch.arange(12)), turned(k[:, :, head], torch.arange(12))
            query, key = unit(query) * block.attention.q_norm.weight, unit(key) * block.attention.k_norm.weight
            for t in range(12):
                scores = math.sqrt(width) * (key[:, : t + 1] @ query[:, t, :, None]).squeeze(-1)
                mixed[:, t, head] = (scores.softmax(-1)[:, None] @ v[:, : t + 1, head]).squeeze(1)
        h_a = unit(mixed.flatten(2) @ block.attention.out.weight.T)
        alpha = (block.attention_step * 0.05 / (1 / math.sqrt(d))).abs()
        h = unit(h + alpha * (h_a - h))
        gate, value = (h @ block.ffn.into.weight.T).chunk(2, -1)
        s_v, s_u = block.ffn.gain.chunk(2)
        gate, value = gate * s_v * math.sqrt(d), value * s_u
        h_m = unit((value * gate * torch.sigmoid(gate)) @ block.ffn.out.weight.T)
        alpha = (block.ffn_step * 0.05 / (1 / math.sqrt(d))).abs()
        h = unit(h + alpha * (h_m - h))
    s_z = model.embedding.logit_scale / (1 / math.sqrt(d))
    return (h @ unit(model.head.weight).T) * s_z


@pytest.mark.usefixtures("exact_lengths")
@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_model_of_ngpt_blocks_computes_the_papers_model(n_layers: int) -> None:
    model = trained_ngpt(n_layers=n_layers)
    ids = tokens(2, 12, 3)
    got, expected = model(ids), ngpt_of_the_paper(model, ids)
    assert_formula(got, expected)
    inputs = {name: p for name, p in model.named_parameters() if name != "embedding.weight" and "head" not in name}
    of_got = torch.autograd.grad(got.square().sum(), inputs.values())
    of_expected = torch.autograd.grad(expected.square().sum(), inputs.values())
    for name, g, e in zip(inputs, of_got, of_expected, strict=True):
        if "_norm" in name:  # gains before and after the rotation agree if they are equal within a pair
            g, e = g[:2] + g[2:], e[:2] + e[2:]
        assert_formula(g, e, name)
    assert len(inputs) == 9 * n_layers + 1


def assert_on_the_sphere(model: GPT) -> None:
    for block in model.blocks:
        for weight, axis in ((block.attention.qkv, 1), (block.attention.out, 0), (block.ffn.into, 1), (block.ffn.out, 0)):
            lengths = weight.weight.norm(dim=axis)
            assert ((lengths - 1).abs() <= gamma(len(weight.weight) + 8)).all()  # a sum of squares, its root, a quotient


def test_ngpt_weights_and_stream_stay_on_the_sphere() -> None:
    torch.manual_seed(0)
    model = GPT(model_section(**NGPT), VOCAB)
    assert_on_the_sphere(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for step in range(4):
        loss, _ = model.loss(tokens(4, 12, step), tokens(4, 12, step + 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with pytest.raises(AssertionError):
            assert_on_the_sphere(model)
        model.after_step()
        assert_on_the_sphere(model)
    streams = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: streams.extend((inputs[0], output)))
    with torch.no_grad():
        model(tokens(2, 12, 9))
    for stream in streams:
        assert (
            (stream.square().mean(-1) - 1).abs() <= gamma(4 * stream.shape[-1])
        ).all()  # twice each: in the test, and in the block


def test_the_constraint_of_ngpt_changes_only_maps_from_and_to_the_stream() -> None:
    pattern = [
        {"block": "ngpt", "attention": {"name": "gqa", "gate": "head"}, "ffn": {"name": "moe", "n_shared": 1, "bias": True}},
        {"block": "ngpt", "attention": {"name": "mla", "kv_rank": 6, "q_rank": 5, "rope_dim": 2}, "ffn": "identity"},
        {"block": "pre_norm"},
    ]
    model = model_with_large_weights(model_section(layers=pattern)).double()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.after_step()
    after = dict(model.named_parameters())
    axes = {"0.attention.qkv": 1, "0.attention.gate": 1, "0.ffn.router": 1, "0.ffn.shared_into": 1}
    axes |= {"0.attention.out": 0, "0.ffn.shared_out": 0, "1.attention.out": 0}
    axes |= {"1.attention.q_down": 1, "1.attention.kv_down": 1}  # q_up and kv_up read their outputs
    assert {name for name in after if not torch.equal(after[name], before[name])} == {f"blocks.{n}.weight" for n in axes}
    for name, axis in axes.items():
        weight = f"blocks.{name}.weight"
        assert_formula(after[weight], unit(before[weight], axis), name)


@pytest.mark.usefixtures("exact_lengths")
def test_steps_of_ngpt_start_at_step_size_and_change_at_the_papers_pace() -> None:
    block = REGISTRY.resolve("block", {"name": "ngpt", "step_size": 0.2}).build(replace(DIMS, d_model=64), layer_of())
    assert ((block.attention_step * 8 - 1).abs() <= UNIT[torch.float32]).all()
    block = block.double()
    torch.nn.init.constant_(block.attention_step, 1 / 8)
    x = block.enter(normal(1, 7, 64))
    target = block.enter(block.attention(x, context(batch=1)))
    moved = block._step(x, target, block.attention_step)
    assert_formula(moved, block.enter(0.8 * x + 0.2 * target))
    # An update of the stored number by 0.01 changes the step by 0.01 * 0.2 * sqrt(64).
    further = block._step(x, target, block.attention_step + 0.01)
    assert_formula(further, block.enter(0.784 * x + 0.216 * target))


def test_a_proposal_of_zero_leaves_ngpt_finite() -> None:
    block = block_of("ngpt")
    x = block.enter(normal(2, 7, 12)).requires_grad_()
    for name, parameter in block.named_parameters():
        if ".out." in name:
            torch.nn.init.zeros_(parameter)
        elif name.endswith("_step"):
            torch.nn.init.constant_(parameter, 0.3)  # equal for all channels, so that x only shrinks and is normalised again
    y = block(x, context())
    y.square().sum().backward()
    assert ((y - x).abs() <= 2e-8 * x.abs()).all(), "up to the eps of the norm, 1e-8"
    assert all(p.grad is not None and p.grad.abs().max() < 1e6 for p in block.parameters())
