"""Components in float64 with large weights, and the plain formulas that several tests compare them with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from minigpt.contracts import Context, Dims, Position
from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.registry import REGISTRY

DIMS = Dims(d_model=12, n_layers=2, n_heads=4, head_dim=6, block_size=16, vocab_size=9, dropout=0.0)


def build(family: str, name: str, *received: Any, **params: Any) -> Any:
    """A component in float64, its weights drawn in fp32 and large enough to matter."""
    torch.manual_seed(1)
    component = REGISTRY.resolve(family, {"name": name, **params}).build(*received)
    for parameter in component.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return component.double()


def context(position: Position | None = None, time: int = 7, batch: int = 2) -> Context:
    tokens = torch.arange(batch * time).view(batch, time) % DIMS.vocab_size
    return Context(torch.arange(time), position or build("position", "none", DIMS), tokens)


def linear(x: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    y = x @ layer.weight.T
    return y if layer.bias is None else y + layer.bias


def turned(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """RoFormer, equation 15, as complex multiplication; pairs (i, i + K/2)."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-2 * torch.arange(half, dtype=torch.float64) / x.shape[-1])
    turns = torch.polar(torch.ones(len(positions), half, dtype=torch.float64), positions[:, None].double() * frequency)
    pairs = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * turns
    return torch.cat((pairs.real, pairs.imag), -1)


ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: x.clamp(min=0),
    "relu2": lambda x: x.clamp(min=0) ** 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


def model(**changes: Any) -> GPT:
    """A model in float64 with weights that are large enough to matter."""
    small = {"d_model": 12, "n_heads": 2, "n_layers": 2, "block_size": 16, "dropout": 0.0}
    torch.manual_seed(1)
    built = GPT(ModelSection.model_validate({**small, **changes}), DIMS.vocab_size).double()
    for name, parameter in built.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.3)
    return built


def ids(batch: int, time: int, seed: int = 0) -> Tensor:
    """Random token ids."""
    return torch.randint(DIMS.vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))
