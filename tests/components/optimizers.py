"""Optimizers with a small model, and with parameters that have no model around them."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.contracts import NamedParameter
from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.registry import REGISTRY


def model() -> GPT:
    torch.manual_seed(0)
    return GPT(ModelSection.model_validate({"d_model": 8, "n_heads": 2, "n_layers": 1, "block_size": 8, "dropout": 0.0}), 11)


def optimizer_of(lm: GPT, name: str, **params: Any) -> torch.optim.Optimizer:
    built = REGISTRY.resolve("optimizer", {"name": name, **params}).build().build(list(lm.named_roles()))
    assert isinstance(built, torch.optim.Optimizer)
    return built


def step(lm: GPT, optimizer: torch.optim.Optimizer, number: int) -> None:
    ids = torch.randint(0, 11, (4, 8), generator=torch.Generator().manual_seed(number))
    lm.loss(ids[:, :-1], ids[:, 1:])[0].backward()
    optimizer.step()
    optimizer.zero_grad()


def gradients(lm: GPT, number: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 11, (4, 8), generator=torch.Generator().manual_seed(number))
    lm.loss(ids[:, :-1], ids[:, 1:])[0].backward()
    return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


def parameters_of(
    *shapes_and_roles: tuple[tuple[int, ...], str], dtype: torch.dtype = torch.float64
) -> list[NamedParameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        NamedParameter(f"p{index}", nn.Parameter(torch.randn(shape, generator=generator).to(dtype)), typing.cast(Any, role))
        for index, (shape, role) in enumerate(shapes_and_roles)
    ]


def built(name: str, parameters: Sequence[NamedParameter], **params: Any) -> torch.optim.Optimizer:
    optimizer = REGISTRY.resolve("optimizer", {"name": name, **params}).build().build(parameters)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def set_gradients(parameters: Sequence[NamedParameter], seed: int) -> list[Tensor]:
    """Random gradients."""
    generator = torch.Generator().manual_seed(100 + seed)
    drawn = [torch.randn(parameter.tensor.shape, generator=generator).to(parameter.tensor.dtype) for parameter in parameters]
    for parameter, gradient in zip(parameters, drawn, strict=True):
        parameter.tensor.grad = gradient
    return drawn


def pieces(tensor: Tensor) -> list[Tensor]:
    """The matrices of a stack; a list of one for a matrix or a vector."""
    stack = tensor.detach().clone()
    return list(stack.reshape(-1, *stack.shape[-2:])) if stack.ndim > 2 else [stack]
