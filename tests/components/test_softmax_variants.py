"""Variants of softmax attention against their papers' formulas, one query at a time in float64; and the long convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt.components.attention.hyena import convolve
from minigpt.contracts import Context, Dims
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY
from tests.components.formulas import DIMS, build, context, linear, turned
from tests.rounding import UNIT, assert_formula, assert_within, gamma, normal

HEADS, WIDTH, TIME = DIMS.n_heads, DIMS.head_dim, 13
Reference = Callable[[Any, Tensor], Tensor]


def heads_of(x: Tensor, width: int = WIDTH) -> Tensor:
    """[B, T, heads x width] to [B, heads, T, width]."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def rms(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def forgetting(m: Any, x: Tensor) -> Tensor:
    """FoX, equation 6: exp(q_i k_j + sum_{t=j+1..i} log f_t), normalised."""
    q, k, v = (heads_of(part) for part in linear(x, m.qkv).chunk(3, -1))
    f = sigmoid(linear(x, m.forget))  # [B, T, H]
    out = torch.zeros_like(q)
    for i in range(x.shape[1]):
        weights = []
        for j in range(i + 1):
            gates = f[:, j + 1 : i + 1].prod(1)  # [B, H]
            weights.append(torch.exp((q[:, :, i] * k[:, :, j]).sum(-1) / math.sqrt(WIDTH)) * gates)
        w = torch.stack(weights, -1)
        out[:, :, i] = ((w / w.sum(-1, keepdim=True))[..., None] * v[:, :, : i + 1]).sum(2)
    return linear(out.transpose(1, 2).flatten(2), m.out)


def cope(m: Any, x: Tensor) -> Tensor:
    """CoPE, equations 3 to 5 and section 4's interpolation."""
    q, k, v = (heads_of(part) for part in linear(x, m.qkv).chunk(3, -1))
    table = m.distances
    out = torch.zeros_like(q)
    for i in range(x.shape[1]):
        scores = [(q[:, :, i] * k[:, :, j]).sum(-1) / math.sqrt(WIDTH) for j in range(i + 1)]
        for j in range(i + 1):
            p = sum(sigmoid((q[:, :, i] * k[:, :, n]).sum(-1) / math.sqrt(WIDTH)) for n in range(j, i + 1))
            p = p.clamp(max=m.max_distance)
            floor, ceil = p.floor().long(), p.ceil().long()
            e = table.T[ceil] * (p - floor)[..., None] + table.T[floor] * (1 - p + floor)[..., None]
            scores[j] = scores[j] + (q[:, :, i] * e).sum(-1)
        weights = torch.stack(scores, -1).softmax(-1)
        out[:, :, i] = (weights[..., None] * v[:, :, : i + 1]).sum(2)
    return linear(out.transpose(1, 2).flatten(2), m.out)


def causal_softmax(scores: Tensor) -> Tensor:
    time = scores.shape[-1]
    return scores.masked_fill(~torch.ones(time, time, dtype=torch.bool).tril(), -torch.inf).softmax(-1)


def differential(m: Any, x: Tensor) -> Tensor:
    """Differential Transformer, equations 1 to 3 and the per-head norm of section 2.1; pairs of heads are neighbours."""
    q, k, v = linear(x, m.qkv).chunk(3, -1)
    q, k, v = heads_of(q), heads_of(k), heads_of(v, 2 * WIDTH)
    start = 0.8 - 0.6 * math.exp(-0.3 * 2)
    a, b, c, d = (getattr(m, f"lambda_{name}") for name in ("q1", "k1", "q2", "k2"))
    share = torch.exp((a * b).sum()) - torch.exp((c * d).sum()) + start
    outputs = []
    for pair in range(HEADS // 2):
        maps = [causal_softmax(q[:, h] @ k[:, h].mT / math.sqrt(WIDTH)) for h in (2 * pair, 2 * pair + 1)]
        mixed = (maps[0] - share * maps[1]) @ v[:, pair]
        outputs.append((1 - start) * rms(mixed, m.head_gain, 1e-5))
    return linear(torch.cat(outputs, -1), m.out)


def mla(m: Any, x: Tensor, sharpened: float = 1.0) -> Tensor:
    """DeepSeek-V2, equations 9 to 19, with rotation of the decoupled parts."""
    places = torch.arange(x.shape[1])
    latent, key = linear(x, m.kv_down).split((m.rank, m.rope_dim), -1)
    latent = rms(latent, m.kv_gain, 1e-6)
    key = turned(key, places)
    source = x if m.q_down is None else rms(linear(x, m.q_down), m.q_gain, 1e-6)
    q = heads_of(linear(source, m.q_up), WIDTH + m.rope_dim)
    made = linear(latent, m.kv_up).unflatten(-1, (HEADS, 2, WIDTH))
    outputs = []
    for h in range(HEADS):
        still, moving = q[:, h].split((WIDTH, m.rope_dim), -1)
        scores = still @ made[:, :, h, 0].mT + turned(moving, places) @ key.mT
        outputs.append(causal_softmax(sharpened * scores / math.sqrt(WIDTH + m.rope_dim)) @ made[:, :, h, 1])
    return linear(torch.cat(outputs, -1), m.out)


def native_sparse(m: Any, x: Tensor) -> Tensor:
    """NSA, equations 5 to 12, one query and one group of heads at a time."""
    batch, time, _ = x.shape
    groups = m.groups
    q = heads_of(linear(x, m.q))
    keys, values = linear(x, m.kv).unflatten(-1, (2, 3 * groups, WIDTH)).unbind(2)  # [B, T, 3 G, K]
    gates = sigmoid(linear(x, m.views)).unflatten(-1, (3, HEADS))

    def summary(which: int, block: Tensor) -> Tensor:
        into, _, out = m.summaries[which]
        hidden = linear((block + m.places[which]).flatten(1), into)
        return linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), out)

    def softmax_over(query: Tensor, some_keys: list[Tensor]) -> Tensor:
        return torch.stack([(query * key).sum(-1) / math.sqrt(WIDTH) for key in some_keys], -1).softmax(-1)

    out = torch.zeros(batch, time, HEADS, WIDTH, dtype=torch.float64)
    for t in range(time):
        for g in range(groups):
            starts = [s for s in range(0, time, m.stride) if s + m.summary_block - 1 <= t]
            mine = range(g * HEADS // groups, (g + 1) * HEADS // groups)
            number = t // m.select_block + 1
            importance = torch.zeros(batch, number, dtype=torch.float64)
            if starts:
                short_keys = [summary(0, keys[:, s : s + m.summary_block, g]) for s in starts]
                short_values = [summary(1, values[:, s : s + m.summary_block, g]) for s in starts]
                for h in mine:
                    p = softmax_over(q[:, h, t], short_keys)
                    out[:, t, h] += gates[:, t, 0, h, None] * sum(p[:, n, None] * v for n, v in enumerate(short_values))
                    for n, s in enumerate(starts):
                        for segment in range(s, s + m.summary_block, m.stride):
                            if segment // m.select_block < number:
                                importance[:, segment // m.select_block] += p[:, n]
            for b in range(batch):
                always = {0, number - 1, max(0, number - 2)}
                rest = sorted(
                    (n for n in range(number) if n not in always), key=lambda n: (round(1024 * importance[b, n].item()), n)
                )
                chosen = always | set(rest[len(rest) - max(0, m.selected - len(always)) :] if rest else [])
                seen = [s for s in range(t + 1) if s // m.select_block in chosen]
                near = [s for s in range(t + 1) if t - s < m.window]
                for h in mine:
                    for view, places in ((1, seen), (2, near)):
                        line = view * groups + g
                        p = softmax_over(q[b, h, t], [keys[b, s, line] for s in places])
                        value = sum(p[n] * values[b, s, line] for n, s in enumerate(places))
                        out[b, t, h] += gates[b, t, view, h] * value
    return linear(out.flatten(2), m.out)


def short_conv(m: Any, x: Tensor) -> Tensor:
    """LFM2: y = W_out (c * conv(b * z))."""
    b, c, z = linear(x, m.into).chunk(3, -1)
    taps = m.convolution.weight[:, 0]
    return linear(c * convolved_slowly(b * z, taps.flip(-1).T), m.out)


def convolved_slowly(x: Tensor, taps: Tensor) -> Tensor:
    """y_t = sum_s taps_s x_(t-s); taps [S, D]."""
    rows = []
    for t in range(x.shape[1]):
        rows.append(sum(taps[s] * x[:, t - s] for s in range(min(t + 1, len(taps)))))
    return torch.stack(rows, 1)


def hyena(m: Any, x: Tensor) -> Tensor:
    """Hyena, definition 3.1, with the filters of section 3.3."""
    time = x.shape[1]
    projected = convolved_slowly(linear(x, m.into), m.short.weight[:, 0].flip(-1).T) + m.short.bias
    z, *gates = projected.chunk(m.order + 1, -1)
    filters = torch.zeros(m.order, time, m.channels, dtype=torch.float64)
    for t in range(time):
        place = t / DIMS.block_size
        turns = [1e-4 + n * (m.bands - 1 - 1e-4) / (m.bands - 1) for n in range(m.bands)]
        features = [place, *(math.cos(2 * math.pi * f * place) for f in turns)]
        features += [-math.sin(2 * math.pi * f * place) for f in turns]
        hidden = torch.tensor(features, dtype=torch.float64)
        for layer in m.filter[:-1]:
            hidden = torch.sin(m.frequency * linear(hidden, layer))
        filters[:, t] = linear(hidden, m.filter[-1]).view(m.order, m.channels)
        for channel in range(m.channels):
            fall = 1.5 - 1.2 * channel / (m.channels - 1)
            filters[:, t, channel] *= 0.01 ** (place / fall)
    for n, gate in enumerate(gates):
        direct = m.direct[n * m.channels : (n + 1) * m.channels]
        z = gate * (convolved_slowly(z, filters[n]) + direct * z)
    return linear(z, m.out)


CASES: list[tuple[str, dict[str, Any], Reference]] = [
    ("forgetting", {}, forgetting),
    ("cope", {"max_distance": 3}, cope),
    ("cope", {}, cope),
    ("differential", {}, differential),
    ("mla", {}, mla),
    ("mla", {"kv_rank": 7, "q_rank": 5, "rope_dim": 4, "bias": False}, mla),
    ("mla", {"score_scale": 3.0}, partial(mla, sharpened=3.0)),
    ("native_sparse", {"summary_block": 4, "stride": 2, "select_block": 2, "selected": 4, "window": 3}, native_sparse),
    ("native_sparse", {"summary_block": 2, "stride": 2, "select_block": 4, "selected": 3, "window": 5}, native_sparse),
    ("short_conv", {}, short_conv),
    ("short_conv", {"width": 5}, short_conv),
    ("hyena", {"filter_width": 9, "bands": 3, "frequency": 3.0}, hyena),
    ("hyena", {"order": 1, "bands": 2, "frequency": 2.0, "conv_width": 1}, hyena),
]


@pytest.mark.parametrize(
    ("name", "params", "reference"),
    CASES,
    ids=lambda value: getattr(value, "__name__", "sharpened") if callable(value) else str(value),
)
def test_outputs_and_gradients_match_the_papers_formula(name: str, params: dict[str, Any], reference: Reference) -> None:
    dims = Dims(**{**vars(DIMS), "layer": 2})
    module = build("attention", name, dims, **params)
    x = normal(2, TIME, 12).requires_grad_()
    position = build("position", "rope" if name == "mla" else "none", DIMS)
    got, expected = module(x, context(position, time=TIME)), reference(module, x)
    assert_formula(got, expected, "outputs")
    inputs, weights = {"input": x, **dict(module.named_parameters())}, normal(*got.shape)
    of_got = torch.autograd.grad(got, inputs.values(), weights)
    of_expected = torch.autograd.grad(expected, inputs.values(), weights)
    for key, one, other in zip(inputs, of_got, of_expected, strict=True):
        assert_formula(one, other, f"gradient of {key}")


def test_mla_decodes_one_token_without_computing_keys_and_equals_the_full_pass() -> None:
    module = build("attention", "mla", DIMS, kv_rank=7, score_scale=2.0)
    x = normal(2, TIME, 12)
    position = build("position", "rope", DIMS)
    whole = module(x, context(position, time=TIME))
    state = module.new_state(2, TIME, x.device, x.dtype)
    assert sum(tensor[0, :, 0].numel() for tensor in state.tensors.values()) == 7 + 2, "the latent and the rotated key"
    calls = []
    module.kv_up.register_forward_hook(lambda *_: calls.append(1))
    ctx = context(position, time=TIME)
    with torch.no_grad():
        steps = [
            module(x[:, t : t + 1], type(ctx)(torch.tensor([t]), position, ctx.tokens[:, t : t + 1]), state)
            for t in range(TIME)
        ]
    assert_formula(torch.cat(steps, 1), whole)
    assert not calls


@pytest.mark.parametrize(
    "name", [entry.name for entry in REGISTRY.entries("attention") if "value_embedding" in entry.params.model_fields]
)
def test_a_value_embedding_adds_the_tokens_row_to_its_values(name: str) -> None:
    """Attention is linear in its values: the row of a single token adds attention over only that row."""
    module = build("attention", name, DIMS, value_embedding=True)
    x = normal(2, TIME, 12)
    ctx = context(time=TIME)
    table = module.value_table.weight
    assert table.shape[0] == DIMS.vocab_size
    with torch.no_grad():
        before = module(x, ctx)
        table[ctx.tokens[0, 3]] += 1.0
        changed = (module(x, ctx) - before).abs().amax(-1)
    firsts = [ids.tolist().index(ctx.tokens[0, 3]) if ctx.tokens[0, 3] in ids else TIME for ids in ctx.tokens]
    for row, first in enumerate(firsts):
        assert not changed[row, :first].any()
        assert (changed[row, first:] > 0).all()


@pytest.mark.parametrize(
    ("source", "time"), [(1, 1), (5, 5), (64, 64), (65, 65), (200, 200), (200, 1), (200, 17), (129, 100)]
)
def test_the_long_convolution_is_a_convolution_and_exactly_causal(source: int, time: int) -> None:
    x, taps = normal(2, source, 3), normal(source, 3)
    expected = convolved_slowly(x, taps)[:, source - time :]
    assert_formula(convolve(x, taps, time), expected)
    x, taps = x.float().requires_grad_(), taps.float()
    y = convolve(x, taps, time)
    # Sums of at most `source` products; a transform of n numbers adds log2(n) roundings of the root of their sum of squares
    # (Higham 2002, theorem 24.2), which is at most the sum of magnitudes of a chunk.
    magnitudes = x.abs().amax().double() * taps.abs().double().sum(0)
    assert_within(y.detach(), expected, gamma(source + 64) * magnitudes.expand_as(expected))
    place = time // 2
    y[0, place].sum().backward()
    assert x.grad is not None
    assert not x.grad[0, source - time + place + 1 :].any()
    assert x.grad[0, : source - time + place + 1].all()


@pytest.mark.parametrize("over", ["head", "heads"])
def test_queries_and_keys_are_normalised_per_head_or_over_all_heads(over: str) -> None:
    module = build("attention", "gqa", DIMS, qk_norm={"name": "rmsnorm", "eps": 1e-6}, qk_norm_over=over)
    x = normal(2, TIME, 12)
    q, k, v = linear(x, module.qkv).split((4 * WIDTH, 2 * WIDTH, 2 * WIDTH), -1)
    if over == "heads":
        q, k = rms(q, module.q_norm.weight, 1e-6), rms(k, module.k_norm.weight, 1e-6)
    q, k, v = heads_of(q), heads_of(k), heads_of(v)
    if over == "head":
        q, k = rms(q, module.q_norm.weight, 1e-6), rms(k, module.k_norm.weight, 1e-6)
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    mixed = causal_softmax(q @ k.mT / math.sqrt(WIDTH)) @ v
    expected = linear(mixed.transpose(1, 2).flatten(2), module.out)
    assert_formula(module(x, context(time=TIME)), expected)


def test_values_of_different_kinds_are_not_mixed() -> None:
    """Six heads of values, and two for each of three views: equal only in number and width."""
    dims = Dims(24, 2, 6, 4, 16, 9, 0.0)
    ctx = context(time=TIME)
    for name in ("mha", "native_sparse"):
        build("attention", name, dims, value_residual=True)(normal(2, TIME, 24), ctx)
    assert len(ctx.shared) == 2


def decoded(module: Any, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The full pass, and the same token by token from a state of the given dtype."""
    position = build("position", "none", DIMS)
    ids = torch.zeros(x.shape[:2], dtype=torch.long)
    state = module.new_state(len(x), x.shape[1], x.device, dtype)
    with torch.no_grad():
        whole = module(x, Context(torch.arange(x.shape[1]), position, ids))
        steps = [
            module(x[:, t : t + 1], Context(torch.tensor([t]), position, ids[:, t : t + 1]), state)
            for t in range(x.shape[1])
        ]
    return whole, torch.cat(steps, 1)


def test_forgotten_tokens_cost_no_precision_even_in_a_bf16_cache() -> None:
    module = build("attention", "forgetting", DIMS).float()
    torch.nn.init.constant_(module.forget.bias, -3.0)  # log f of about -3 a token: the running total reaches -1200
    whole, stepwise = decoded(module, torch.randn(2, 400, 12), torch.bfloat16)
    assert (stepwise - whole).abs().max() < 5 * UNIT[torch.bfloat16] * whole.abs().max()


def test_a_rotation_has_an_effect_in_heads_of_any_width() -> None:
    rope = REGISTRY.resolve("position", {"name": "rope", "fraction": 0.25}).build(Dims(12, 2, 4, 8, 16, 9, 0.0))
    q = torch.randn(1, 4, 3, 2)
    assert not torch.equal(rope.rotate(q, q, torch.arange(3))[0], q)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("mha", {"qk_norm_over": "heads"}, 'qk_norm_over "heads" needs a qk_norm'),
    ("native_sparse", {"summary_block": 32, "select_block": 32}, "summary_block 32 is more than block_size 16"),
]


@pytest.mark.parametrize(("name", "params", "message"), REFUSED)
def test_parameters_without_an_effect_are_refused(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        REGISTRY.resolve("attention", {"name": name, **params}).build(DIMS)


@pytest.mark.parametrize("name", [entry.name for entry in REGISTRY.entries("attention")])
def test_in_float64_every_mixer_computes_and_decodes_in_float64(name: str) -> None:
    whole, stepwise = decoded(build("attention", name, DIMS), normal(2, TIME, 12), torch.float64)
    assert_formula(stepwise, whole)
