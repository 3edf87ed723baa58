"""Each block against its paper's formula, its parts being whatever they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from minigpt.contracts import Block, Layer
from minigpt.registry import REGISTRY
from tests.components.test_formulas import DIMS, context

Map = Callable[[torch.Tensor], torch.Tensor]


def block_of(name: str, **params: Any) -> Block:
    layer = Layer(
        attention=REGISTRY.resolve("attention", "mha"),
        ffn=REGISTRY.resolve("ffn", "mlp"),
        norm=REGISTRY.resolve("norm", "rmsnorm"),
        position=REGISTRY.resolve("position", "none"),
    )
    torch.manual_seed(2)
    block = REGISTRY.resolve("block", {"name": name, **params}).build(DIMS, layer)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    assert isinstance(block, Block)
    return block


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


def rezero(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    x = x + b.weight * attention(x)
    return x + b.weight * ffn(x)


def layerscale(b: Any, x: torch.Tensor, attention: Map, ffn: Map) -> torch.Tensor:
    x = x + attention(b.attention_norm(x)) @ torch.diag(b.attention_scale)
    return x + ffn(b.ffn_norm(x)) @ torch.diag(b.ffn_scale)


FORMULAS: dict[str, Callable[..., torch.Tensor]] = {
    "pre_norm": pre_norm,
    "post_norm": post_norm,
    "parallel": parallel,
    "sandwich": sandwich,
    "reordered": reordered,
    "rezero": rezero,
    "layerscale": layerscale,
}


def test_every_block_has_its_formula_here() -> None:
    assert sorted(FORMULAS) == [entry.name for entry in REGISTRY.entries("block")]


@pytest.mark.parametrize(
    ("name", "params"), [(name, {}) for name in FORMULAS] + [("parallel", {"shared_norm": False})], ids=str
)
def test_the_block_is_its_formula(name: str, params: dict[str, Any]) -> None:
    block = block_of(name, **params)
    ctx = context()
    x = torch.randn(2, 7, 12)
    expected = FORMULAS[name](block, x, lambda y: block.attention(y, ctx), lambda y: block.ffn(y, ctx))
    torch.testing.assert_close(block(x, ctx), expected, atol=1e-5, rtol=1e-5)


def test_rezero_is_the_identity_at_first() -> None:
    layer = Layer(
        *(REGISTRY.resolve(f, n) for f, n in (("attention", "mha"), ("ffn", "mlp"), ("norm", "none"), ("position", "none")))
    )
    block = REGISTRY.resolve("block", "rezero").build(DIMS, layer)
    x = torch.randn(2, 7, 12)
    assert torch.equal(block(x, context()), x)


def test_layerscale_starts_small() -> None:
    layer = Layer(
        *(REGISTRY.resolve(f, n) for f, n in (("attention", "mha"), ("ffn", "mlp"), ("norm", "none"), ("position", "none")))
    )
    block = REGISTRY.resolve("block", {"name": "layerscale", "scale": 0.01}).build(DIMS, layer)
    assert block.attention_scale.tolist() == block.ffn_scale.tolist() == pytest.approx([0.01] * 12)


@pytest.mark.parametrize(("name", "needed"), [(name, name != "post_norm") for name in FORMULAS])
def test_only_post_norm_ends_normalised(name: str, needed: bool) -> None:
    assert block_of(name).final_norm is needed
