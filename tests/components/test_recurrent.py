"""Each recurrent mixer against its paper's formula, token by token in float64; and their special abilities.

The references use only the weights of the modules, and neither `recurrence.py` nor any forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minigpt.components.attention.mamba2 import StepDecay
from minigpt.contracts import Context, Dims
from minigpt.errors import ExperimentError
from minigpt.experiment import ModelSection
from minigpt.model import GPT, build_model_on_meta
from minigpt.registry import REGISTRY
from tests.components.test_formulas import turned
from tests.rounding import assert_formula, gamma, normal

HEADS, WIDTH, D_MODEL = 3, 4, 12  # width: head_dim
DIMS = Dims(D_MODEL, n_layers=3, n_heads=HEADS, head_dim=WIDTH, block_size=160, vocab_size=9, dropout=0.0)
TIME = 70  # more than one chunk


EPS = 0.01  # of the norms: outputs near 0 would magnify rounding beyond the bounds of these tests
NORM = {"name": "rmsnorm", "eps": EPS}


def build(name: str, dims: Dims = DIMS, **params: Any) -> Any:
    torch.manual_seed(1)
    if name not in ("linear", "rwkv7"):
        params = {"norm": NORM, **params}
    module = REGISTRY.resolve("attention", {"name": name, **params}).build(dims)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.double()


def context(start: int, end: int, position: str = "none") -> Context:
    ids = torch.zeros(2, end - start, dtype=torch.long)
    return Context(torch.arange(start, end), REGISTRY.resolve("position", position).build(DIMS), ids)


# ---------------------------------------------------------------------------------------------------------- references


def linear(x: Tensor, layer: Any) -> Tensor:
    y = x @ layer.weight.T
    return y if layer.bias is None else y + layer.bias


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def rms(x: Tensor, norm: Any) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * norm.weight


def convolved(x: Tensor, convolution: Any) -> Tensor:
    if convolution is None:
        return x
    width = convolution.weight.shape[-1]
    rows = []
    for t in range(x.shape[1]):
        row = torch.zeros_like(x[:, 0]) if convolution.bias is None else convolution.bias
        for back in range(min(width, t + 1)):
            row = row + convolution.weight[:, 0, width - 1 - back] * x[:, t - back]
        rows.append(row)
    return torch.stack(rows, 1)


def split(x: Tensor, *widths: int) -> list[Tensor]:
    """Split a projection into HEADS heads of these widths: [B, T, heads, width] each."""
    return [
        part.unflatten(-1, (HEADS, width))
        for part, width in zip(x.split([HEADS * w for w in widths], -1), widths, strict=True)
    ]


def outer(k: Tensor, v: Tensor) -> Tensor:
    return k[..., :, None] * v[..., None, :]


def read(q: Tensor, matrix: Tensor) -> Tensor:
    return (q[..., :, None] * matrix).sum(-2)


def reference_linear(m: Any, x: Tensor, feature_map: str = "elu", norm: Any = None) -> Tensor:
    """Katharopoulos et al. 2020, equation 9, with explicit sums."""
    phi = {
        "elu": lambda x: torch.where(x > 0, x, torch.exp(x.clamp(max=0)) - 1) + 1,
        "relu": lambda x: x.clamp(min=0),
        "identity": lambda x: x,
    }[feature_map]
    q, k, v = split(linear(x, m.qkv), WIDTH, WIDTH, WIDTH)
    outputs = []
    for t in range(x.shape[1]):
        weights = (phi(q[:, t : t + 1]) * phi(k[:, : t + 1])).sum(-1, keepdim=True)
        total = (weights * v[:, : t + 1]).sum(1)
        outputs.append(rms(total, m.norm) if norm else total / (weights.sum(1) + 1e-6))
    return linear(torch.stack(outputs, 1).flatten(2), m.out)


def reference_retention(m: Any, x: Tensor, decays: str = "powers", expand_v: float = 2.0, position: str = "none") -> Tensor:
    """RetNet, equations 5 and 8, in the parallel form."""
    q, k, v = split(linear(x, m.qkv), WIDTH, WIDTH, round(expand_v * WIDTH))
    if position == "rope":
        places = torch.arange(x.shape[1])
        q, k = (turned(each.transpose(1, 2), places).transpose(1, 2) for each in (q, k))
    gamma = [1 - 2.0 ** (-5 - h) for h in range(HEADS)]
    if decays == "linspace":
        gamma = [
            1 - math.exp(math.log(1 / 32) + h / (HEADS - 1) * (math.log(1 / 512) - math.log(1 / 32))) for h in range(HEADS)
        ]
    kept = torch.tensor(gamma, dtype=torch.float64)
    outputs = []
    for t in range(x.shape[1]):
        total = torch.zeros_like(v[:, 0])
        for s in range(t + 1):
            score = (q[:, t] * k[:, s]).sum(-1) / math.sqrt(WIDTH) * kept ** (t - s)
            total = total + score[..., None] * v[:, s]
        outputs.append(rms(total, m.norm).flatten(1))
    return linear(silu(linear(x, m.gate)) * torch.stack(outputs, 1), m.out)


def reference_gla(
    m: Any, x: Tensor, expand_k: float = 0.5, expand_v: float = 1.0, temperature: float = 16.0, decay_rank: int = 16
) -> Tensor:
    """Yang et al. 2023, section 4: equation 3 and the layer of section 4.4."""
    key = round(expand_k * WIDTH)
    q, k, v = split(linear(x, m.qkv), key, key, round(expand_v * WIDTH))
    down, up = m.decay
    (alpha,) = split(sigmoid(linear(linear(x, down), up)) ** (1 / temperature), key)
    matrix = torch.zeros_like(outer(k[:, 0], v[:, 0]))
    outputs = []
    for t in range(x.shape[1]):
        matrix = alpha[:, t, :, :, None] * matrix + outer(k[:, t], v[:, t])
        outputs.append(rms(read(q[:, t] / math.sqrt(key), matrix), m.norm).flatten(1))
    return linear(silu(linear(x, m.gate)) * torch.stack(outputs, 1), m.out)


def reference_delta_net(m: Any, x: Tensor, alpha: Tensor | None = None, **params: Any) -> Tensor:
    """Yang et al. 2024a, equation 4: the value stored at a key is read, and partly replaced. With alpha: 2024b, equation 10.

    The queries are scaled as in the authors' code.
    """
    value = round(params.get("expand_v", 1.0) * WIDTH)
    q, k, v = split(silu(convolved(linear(x, m.qkv), m.convolution)), WIDTH, WIDTH, value)
    q, k = (each / (each.square().sum(-1, keepdim=True) + 1e-6).sqrt() for each in (q, k))
    beta = sigmoid(linear(x, m.beta)) * (2 if params.get("negative_eigenvalues") else 1)
    matrix = torch.zeros_like(outer(k[:, 0], v[:, 0]))
    outputs = []
    for t in range(x.shape[1]):
        if alpha is not None:
            matrix = alpha[:, t, :, None, None] * matrix
        old = read(k[:, t], matrix)
        new = beta[:, t, :, None] * v[:, t] + (1 - beta[:, t, :, None]) * old
        matrix = matrix - outer(k[:, t], old) + outer(k[:, t], new)
        outputs.append(rms(read(q[:, t] / math.sqrt(WIDTH), matrix), m.norm).flatten(1))
    y = torch.stack(outputs, 1)
    return linear(y if m.gate is None else y * silu(linear(x, m.gate)), m.out)


def reference_gated_delta_net(m: Any, x: Tensor, **params: Any) -> Tensor:
    dt = torch.log(1 + torch.exp(linear(x, m.step) + m.decay.dt_bias))
    return reference_delta_net(m, x, torch.exp(-torch.exp(m.decay.A_log) * dt), **{"expand_v": 2.0, **params})


def reference_mamba2(m: Any, x: Tensor, d_state: int = 64, expand: float = 2.0, conv_width: int = 4) -> Tensor:
    """Dao & Gu 2024, equation 1 discretised as in section 7 and the authors' code, one head at a time."""
    inner = round(expand * D_MODEL)
    assert conv_width == 1 or m.convolution.bias is not None
    z, xbc, dt = linear(x, m.into).split((inner, inner + 2 * d_state, inner // WIDTH), -1)
    u, b, c = silu(convolved(xbc, m.convolution)).split((inner, d_state, d_state), -1)
    dt = torch.log(1 + torch.exp(dt + m.decay.dt_bias))
    outputs = []
    for h in range(inner // WIDTH):
        matrix = torch.zeros(x.shape[0], WIDTH, d_state, dtype=x.dtype)
        mine = u[..., h * WIDTH : (h + 1) * WIDTH]
        rows = []
        for t in range(x.shape[1]):
            step = dt[:, t, h, None, None]
            matrix = torch.exp(-torch.exp(m.decay.A_log[h]) * step) * matrix + step * outer(mine[:, t], b[:, t])
            rows.append((matrix * c[:, t, None]).sum(-1) + m.D[h] * mine[:, t])
        outputs.append(torch.stack(rows, 1))
    return linear(rms(torch.cat(outputs, -1) * silu(z), m.norm), m.out)


def reference_rwkv7(m: Any, x: Tensor, first: Tensor | None = None, **ranks: int) -> tuple[Tensor, Tensor]:
    """Peng et al. 2025, section 4.1, with S as in the paper: [value, key]. Also returns the values that later layers mix in."""
    before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1)
    x_r, x_w, x_k, x_v, x_a, x_g = (x + mu * (before - x) for mu in m.mix)
    r, k, v = linear(x_r, m.r), linear(x_k, m.k), linear(x_v, m.v)
    if first is not None:
        share = sigmoid(linear(linear(x_v, m.value.down), m.value.up))
        mixed = (1 - share) * v + share * first
    else:
        first = mixed = v
    w = torch.exp(-math.exp(-0.5) * sigmoid(linear(torch.tanh(linear(x_w, m.decay.down)), m.decay.up)))
    a = sigmoid(linear(linear(x_a, m.rate.down), m.rate.up))
    g = linear(sigmoid(linear(x_g, m.gate.down)), m.gate.up)
    kappa, new_k = k * m.unlearn_scale, k * (1 - m.rate_scale + a * m.rate_scale)
    outputs = []
    for h in range(HEADS):
        mine = slice(h * WIDTH, (h + 1) * WIDTH)
        matrix = torch.zeros(x.shape[0], WIDTH, WIDTH, dtype=x.dtype)
        for t in range(x.shape[1]):
            r_t, k_t, v_t, w_t, a_t = (each[:, t, mine] for each in (r, new_k, mixed, w, a))
            direction = kappa[:, t, mine] / kappa[:, t, mine].norm(dim=-1, keepdim=True)
            transition = torch.diag_embed(w_t) - outer(direction, a_t * direction)
            matrix = matrix @ transition + outer(v_t, k_t)
            y = (matrix @ r_t[..., None]).squeeze(-1)
            y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5 * WIDTH).sqrt()
            y = y * m.norm_weight[mine] + m.norm_bias[mine]
            outputs.append(y + (r_t * k_t * m.bonus[h]).sum(-1, keepdim=True) * v_t)
    y = torch.stack(outputs, 1).unflatten(1, (HEADS, -1)).transpose(1, 2).flatten(2)
    return linear(y * g, m.out), first


REFERENCES: dict[str, Callable[..., Any]] = {
    "linear": reference_linear,
    "retention": reference_retention,
    "gla": reference_gla,
    "delta_net": reference_delta_net,
    "gated_delta_net": reference_gated_delta_net,
    "mamba2": reference_mamba2,
    "rwkv7": lambda m, x, **ranks: reference_rwkv7(m, x)[0],
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("linear", {"feature_map": "relu"}),
    ("linear", {"feature_map": "identity", "norm": NORM}),
    ("retention", {}),
    ("retention", {"decays": "linspace", "expand_v": 1.5}),
    ("gla", {}),
    ("gla", {"expand_k": 1.0, "expand_v": 2.0, "temperature": 2.0, "decay_rank": 3}),
    ("delta_net", {}),
    ("delta_net", {"conv_width": 1, "output_gate": True, "expand_v": 1.5}),
    ("delta_net", {"conv_width": 2, "negative_eigenvalues": True}),
    ("gated_delta_net", {}),
    ("gated_delta_net", {"output_gate": False, "negative_eigenvalues": True, "expand_v": 1.0}),
    ("mamba2", {}),
    ("mamba2", {"d_state": 3, "expand": 3.0, "conv_width": 1}),
    ("rwkv7", {}),
    ("rwkv7", {"decay_rank": 2, "rate_rank": 3, "gate_rank": 4}),
]


def assert_gradients(got: Tensor, expected: Tensor, inputs: dict[str, Tensor]) -> None:
    """Gradients of both with respect to each input are equal and not zero."""
    weights = normal(*got.shape, seed=2)
    found = (torch.autograd.grad(y, inputs.values(), weights, retain_graph=True) for y in (got, expected))
    for name, one, other in zip(inputs, *found, strict=True):
        assert (other != 0).any(), name
        assert_formula(one, other, f"gradient of {name}")


@pytest.mark.parametrize(("name", "params"), CASES, ids=str)
def test_outputs_and_gradients_match_the_papers_formula(name: str, params: dict[str, Any]) -> None:
    module = build(name, **params)
    x = normal(2, TIME, D_MODEL).requires_grad_()
    got, expected = module(x, context(0, TIME)), REFERENCES[name](module, x, **params)
    assert_formula(got, expected, "outputs")
    assert_gradients(got, expected, {"input": x, **dict(module.named_parameters())})


def test_retention_rotates_queries_and_keys_by_their_positions() -> None:
    module = build("retention")
    x = normal(2, TIME, D_MODEL)
    assert_formula(module(x, context(0, TIME, "rope")), reference_retention(module, x, position="rope"))


def test_later_rwkv7_layers_mix_in_the_values_of_the_first() -> None:
    layers = [build("rwkv7", replace(DIMS, occurrence=number)) for number in range(3)]
    assert layers[0].value is None
    x = normal(2, TIME, D_MODEL).requires_grad_()
    ctx, first = context(0, TIME), None
    for layer in layers:
        got = layer(x, ctx)
        expected, first = reference_rwkv7(layer, x, first)
        assert_formula(got, expected, "outputs")
    values = {"the first layer's values": layers[0].v.weight}
    assert_gradients(got, expected, {"input": x, **dict(layers[2].named_parameters()), **values})


# ------------------------------------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize(
    ("name", "params", "position"),
    [*((*case, "none") for case in CASES), ("retention", {}, "rope"), ("retention", {}, "xpos")],
    ids=str,
)
def test_decoding_beyond_a_chunk_equals_training(name: str, params: dict[str, Any], position: str) -> None:
    module = build(name, **params)
    x = normal(2, 150, D_MODEL)
    with torch.no_grad():
        whole = module(x, context(0, 150, position))
        for lengths in ([1] * 150, [1, 70, 64, 2, 13]):
            state = module.new_state(2, 150, torch.device("cpu"), torch.float64)
            sizes, start, pieces = state.nbytes, 0, []
            for length in lengths:
                piece = x[:, start : start + length]
                pieces.append(module(piece, context(start, start + length, position), state))
                start += length
            assert_formula(torch.cat(pieces, 1), whole, f"{len(lengths)} pieces")
            assert state.nbytes == sizes, "the state does not grow"


# ------------------------------------------------------------------------------------------------- what the rules can do


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


# ----------------------------------------------------------------------------------------- sizes, initial weights, roles


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"name": "retention", "expand_v": 1.3}, "expand_v 1.3 times head_dim 4 is 5.2; it must be a whole number"),
        ({"name": "gla", "expand_k": 0.1}, "expand_k 0.1 times head_dim 4 is 0.4; it must be a whole number"),
        ({"name": "mamba2", "expand": 1.5}, "expand 1.5 times d_model 12 is 18; head_dim 4 must divide it"),
        ({"name": "gla", "decay_rank": 10**18}, "decay_rank: found 1000000000000000000 .*; allowed: at most 131072"),
        ({"name": "linear", "feature_map": "identity"}, 'feature_map "identity" .*: set a norm'),
    ],
)
def test_sizes_that_do_not_fit_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        REGISTRY.resolve("attention", params).build(DIMS)


def test_step_decays_start_as_published() -> None:
    decay = StepDecay(1000)
    dt, log_decay = decay(torch.zeros(1, 1, 1000))
    assert 0.00099 < dt.min() < 0.0011
    assert 0.09 < dt.max() < 0.1001
    assert dt.log().mean().item() == pytest.approx(math.log(0.01), abs=0.15)
    rates = -log_decay / dt
    assert 0.999 < rates.min() < 1.1
    assert 15.9 < rates.max() < 16.001


def model(**section: Any) -> GPT:
    torch.manual_seed(0)
    small = {"d_model": 64, "n_heads": 4, "n_layers": 3, "block_size": 16, "position": "none"}
    return GPT(ModelSection.model_validate({**small, **section}), 9)


def test_rwkv7_starts_as_in_the_authors_training_code_except_for_its_output_map() -> None:
    """One channel at a time; the model-wide initialisation does not overwrite it."""
    for index, block in enumerate(model(attention="rwkv7").blocks):
        mixer: Any = block.attention
        depth, rest = index / 2, 1 - index / 3
        for n in range(64):
            for row, power in enumerate((0.2, 0.9, 0.7, 0.7, 0.9, 0.2)):
                assert mixer.mix[row, n].item() == pytest.approx(1 - (n / 64) ** (power * rest), abs=gamma(10))
            linear, across = n / 63 - 0.5, (n % 16 - 7.5) / 7.5
            zigzag = across * abs(across)
            decay = -6 + 6 * (n / 63) ** (1 + depth**0.3) + 0.5 + 2.5 * zigzag
            assert mixer.decay.up.bias[n].item() == pytest.approx(decay, abs=gamma(10) * 15)
            assert mixer.rate.up.bias[n].item() == pytest.approx(-0.19 + 0.3 * zigzag + 0.4 * linear, abs=gamma(10))
            assert mixer.unlearn_scale[n].item() == pytest.approx(0.71 - 0.1 * linear, abs=gamma(10))
            if index:
                assert mixer.value.up.bias[n].item() == pytest.approx(0.73 - 0.4 * linear, abs=gamma(10))
        assert (mixer.value is None) == (index == 0)
        assert (mixer.rate_scale == 1.02).all()
        assert (mixer.bonus == -0.04).all()
        for pair in filter(None, (mixer.decay, mixer.rate, mixer.value, mixer.gate)):
            assert not pair.down.weight.any()
            square = pair.up.weight.T @ pair.up.weight
            # Orthogonal up to a rounding for each row in each reflection (Higham 2002, theorem 19.4).
            worst = (square - 0.01 * torch.eye(len(square))).abs().max()
            assert worst <= 0.01 * gamma(len(square) * 64)
        for layer, gain in ((mixer.r, 1.0), (mixer.k, 0.1), (mixer.v, 1.0)):
            worst = (layer.weight @ layer.weight.T - gain**2 * torch.eye(64)).abs().max()
            assert worst <= gain**2 * gamma(64 * 64)
        assert torch.equal(mixer.norm_weight, torch.full((64,), ((index + 1) / 3) ** 0.7))
        assert not mixer.norm_bias.any()
        assert mixer.out.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05), "ours; the authors' starts at zero"


@pytest.mark.parametrize("d_model", [384, 768, 2048])
def test_rwkv7_ranks_equal_the_authors_training_code(d_model: int) -> None:
    section = {"d_model": d_model, "n_heads": d_model // 64, "n_layers": 2, "attention": "rwkv7", "position": "none"}
    mixer: Any = build_model_on_meta(ModelSection.model_validate(section)).blocks[1].attention
    found = [pair.down.out_features for pair in (mixer.decay, mixer.rate, mixer.value, mixer.gate)]
    assert found == {384: [64, 64, 32, 96], 768: [64, 64, 32, 128], 2048: [128, 128, 64, 224]}[d_model]


def test_only_matrices_have_the_role_matrix() -> None:
    for name in REFERENCES:
        for parameter in model(attention=name).named_roles():
            last = parameter.name.rpartition("attention.")[2]
            if parameter.role == "matrix":
                assert last not in ("mix", "bonus", "convolution.weight"), parameter.name
                assert parameter.tensor.ndim == 2
