"""The mechanisms of benchmarks/reach, each a plugin file, compared with the formulas of their papers in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Position
from minigpt.experiment import ModelSection
from minigpt.registry import REGISTRY, plugins
from tests.rounding import assert_formula, normal
from tests.strategies import model_with_large_weights, tokens

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "benchmarks" / "reach").glob("*.py"))
DIMS = Dims(8, 2, 2, 4, 40, 11, 0.0)
X = normal(2, 9, 8, seed=1)


def built(family: str, name: str, *received: Any, dims: Dims = DIMS, **params: Any) -> nn.Module:
    plugins.load_file(ROOT / "benchmarks" / "reach" / f"{name}.py")
    module: nn.Module = REGISTRY.resolve(family, {"name": name, **params}).build(dims, *received)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module.double().eval()


def context(x: Tensor = X) -> Context:
    ids = torch.zeros(x.shape[:2], dtype=torch.long)
    return Context(torch.arange(x.shape[1]), Position(), ids, outputs=[x])


def layer() -> Any:
    return ModelSection.model_validate({"d_model": 8, "n_heads": 2, "position": "none", "dropout": 0.0}).layer(0)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def softplus(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(x))


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_mechanism_is_one_file_of_less_than_100_lines(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) < 100
    assert "arXiv:" in file.read_text("utf-8") or file.stem == "mapped_ids"  # a way of reading, which no paper describes


@torch.no_grad()
def test_xielu() -> None:
    module = built("ffn", "xielu")
    w, z = weights(module), X @ module.into.weight.T
    a, c = softplus(w["positive"]), 0.5 + softplus(w["negative"])
    f = torch.where(z > 0, a * z**2 + 0.5 * z, (torch.exp(z) - 1) * c - c * z + 0.5 * z)
    assert_formula(module(X, context()), f @ w["out.weight"].T)


@torch.no_grad()
def test_kan() -> None:
    module = built("ffn", "kan", grid=4, degree=2, grid_range=2.0)
    knots = [-2 + (m - 2) * 1.0 for m in range(9)]

    def spline(m: int, degree: int, x: float) -> float:
        if degree == 0:
            return float(knots[m] <= x < knots[m + 1])
        rising = (x - knots[m]) / (knots[m + degree] - knots[m]) * spline(m, degree - 1, x)
        return rising + (knots[m + degree + 1] - x) / (knots[m + degree + 1] - knots[m + 1]) * spline(m + 1, degree - 1, x)

    def map_of(x: Tensor, base: nn.Linear, curves: nn.Linear) -> Tensor:
        values = torch.tensor([[spline(m, 2, float(value)) for m in range(6)] for value in x.flatten()], dtype=torch.float64)
        sums = torch.einsum("tim,jim->tj", values.view(-1, x.shape[-1], 6), curves.weight.view(-1, x.shape[-1], 6))
        return (x / (1 + torch.exp(-x))) @ base.weight.T + base.bias + sums.view(*x.shape[:2], -1)

    expected = map_of(map_of(X, module.into, module.into_curves), module.out, module.out_curves)
    assert_formula(module(X, context()), expected)


@torch.no_grad()
def test_peer() -> None:
    """The best experts are found by scoring all of them."""
    module = built("ffn", "peer", sub_keys=5, heads=2, top_k=3, key_dim=3)
    w, expected = weights(module), torch.zeros_like(X)
    for row, sequence in enumerate(X):
        for t, x in enumerate(sequence):
            for q in (w["query.weight"] @ x).view(2, 2, 3):
                q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt()
                scores = torch.stack([q[0] @ w["sub_keys"][0, i // 5] + q[1] @ w["sub_keys"][1, i % 5] for i in range(25)])
                best = scores.argsort(descending=True)[:3]
                shares = scores[best].exp() / scores[best].exp().sum()
                for share, i in zip(shares, best, strict=True):
                    expected[row, t] += share * gelu(w["into.weight"][i] @ x) * w["out.weight"][i]
    assert_formula(module(X, context()), expected)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_ttt_linear(batch: int) -> None:
    """The inner gradients by automatic differentiation, token by token."""
    module = built("attention", "ttt_linear", batch=batch, rate=0.7)
    w, expected = weights(module), torch.zeros(2, 9, 2, 4, dtype=torch.float64)

    def f(x: Tensor, matrix: Tensor, head: int) -> Tensor:
        z = x @ matrix
        unit = (z - z.mean()) / ((z - z.mean()).square().mean() + 1e-6).sqrt()
        return x + unit * w["gain"][head, 0] + w["bias"][head, 0]

    for row in range(2):
        q, k, v = (X[row] @ w["qkv.weight"].T).view(9, 3, 2, 4).unbind(1)
        eta = 0.7 / 4 * torch.sigmoid(X[row] @ w["learning_rate.weight"].T + w["learning_rate.bias"])
        for head in range(2):
            start = now = w["first"][head].clone()
            for t in range(9):
                start = now if t % batch == 0 else start
                matrix = start.clone().requires_grad_()
                loss = (f(k[t, head], matrix, head) - v[t, head]).square().sum() / 2
                (gradient,) = torch.autograd.grad(loss, matrix)
                now = now - eta[t, head] * gradient
                expected[row, t, head] = f(q[t, head], now, head)
    with torch.no_grad():
        assert_formula(module(X, context()), expected.flatten(2) @ w["out.weight"].T)


@torch.no_grad()
@pytest.mark.parametrize("family", ["attention", "ffn"])
def test_canon(family: str) -> None:
    module = built(family, "canon", width=3)
    w = module.convolution.weight
    mixed = X.clone()
    for t in range(9):
        for back in range(min(3, t + 1)):
            mixed[:, t] += w[:, 0, 2 - back] * X[:, t - back]
    assert_formula(module(X, context()), module.inner(mixed, context()))


@torch.no_grad()
def test_attention_residuals() -> None:
    blocks = [
        built("block", "attention_residuals", layer(), dims=Dims(8, 2, 2, 4, 40, 11, 0.0, index)) for index in range(2)
    ]

    def mixture(values: list[Tensor], query: Tensor) -> Tensor:
        scores = torch.stack([(v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt()) @ query for v in values])
        shares = scores.exp() / scores.exp().sum(0)
        return sum(share[..., None] * v for share, v in zip(shares, values, strict=True))

    values, h, got, ctx = [X], X, X, context()
    for block in blocks:
        values.append(block.attention(block.attention_norm(h), context()))
        h = mixture(values, block.before_ffn.query)
        values.append(block.ffn(block.ffn_norm(h), context()))
        h = mixture(values, block.after.query)
        got = block(got, ctx)
    assert_formula(got, h)


@torch.no_grad()
def test_layer_drop() -> None:
    dims = Dims(8, 4, 2, 4, 40, 11, 0.0, 1)  # the second of four layers survives with probability 3/4
    block = built("block", "layer_drop", layer(), dims=dims, rate=0.5)
    y = block.inner(X, context())
    assert_formula(block(X, context()), X + 0.75 * (y - X))
    block.train()
    many = X[:1].expand(4000, -1, -1)
    out = block(many, context(many))
    full = block.inner(many, context(many))
    survives = [bool(torch.equal(row, one)) for row, one in zip(out, full, strict=True)]
    skips = [bool(torch.equal(row, X[0])) for row in out]
    assert all(a != b for a, b in zip(survives, skips, strict=True))
    assert abs(sum(survives) / 4000 - 0.75) < 0.03


@torch.no_grad()
def test_hourglass() -> None:
    block = built("block", "hourglass", layer(), shorten=3, depth=2)
    groups = torch.stack([block.norm(X)[:, 3 * g : 3 * g + 3].flatten(1) @ block.down.weight.T for g in range(3)], 1)
    for inner in block.inner:
        groups = inner(groups, context(groups))
    expected = X.clone()
    for t in range(9):
        complete = [g for g in range(3) if 3 * g + 2 <= t]
        if complete:
            expected[:, t] += groups[:, complete[-1]] @ block.up.weight.T
    assert_formula(block(X, context()), expected)


def test_random_depth() -> None:
    block = built("block", "random_depth", layer(), loops=3)
    s = X
    with torch.no_grad():
        for _ in range(3):
            s = block.norm(block.inner(torch.cat((s, X), -1) @ block.adapter.weight.T, context()))
        assert_formula(block(X, context()), s)
    block.train()
    torch.manual_seed(0)
    counts = [block.passes() for _ in range(4000)]
    assert abs(sum(counts) / 4000 - 3) < 0.1, "the mean of the number of passes is `loops`"
    assert len(set(counts)) > 6


@pytest.mark.parametrize("name", ["random_depth", "layer_drop", "hourglass", "attention_residuals"])
def test_a_model_of_its_blocks_decodes_token_by_token(name: str) -> None:
    plugins.load_file(ROOT / "benchmarks" / "reach" / f"{name}.py")
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": 3, "block_size": 24, "dropout": 0.0, "position": "rope"}
    model = model_with_large_weights(ModelSection.model_validate({**sizes, "block": name})).double()
    ids = tokens(2, 24, 3)
    state = model.new_state(2, 24, torch.float64)
    with torch.no_grad():
        assert_formula(torch.cat([model(ids[:, [t]], state) for t in range(24)], 1), model(ids))
