"""Blocks in float64 with large weights, with any parts, and small models of them."""

from __future__ import annotations

from typing import Any

import torch

from minigpt.contracts import Block, Dims, Layer
from minigpt.experiment import ModelSection
from minigpt.registry import REGISTRY
from tests.components.formulas import DIMS

EXACT = {"name": "rmsnorm", "eps": 1e-30}  # the papers divide by lengths without an eps


def block_of(name: str, dims: Dims = DIMS, **params: Any) -> Any:
    layer = layer_of()
    torch.manual_seed(2)
    block = REGISTRY.resolve("block", {"name": name, **params}).build(dims, layer)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    assert isinstance(block, Block)
    return block.double()


def layer_of(attention: Any = "mha", ffn: Any = "mlp", norm: Any = "rmsnorm") -> Layer:
    return Layer(
        attention=REGISTRY.resolve("attention", attention),
        ffn=REGISTRY.resolve("ffn", ffn),
        norm=REGISTRY.resolve("norm", norm),
        position=REGISTRY.resolve("position", "none"),
        block=REGISTRY.resolve("block", "pre_norm"),
    )


def model_section(**changes: Any) -> ModelSection:
    small = {"d_model": 16, "n_heads": 4, "n_layers": 3, "block_size": 12, "dropout": 0.0, "norm": "rmsnorm"}
    return ModelSection.model_validate({**small, **changes})
