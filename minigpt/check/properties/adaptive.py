"""The promise of optimizers that their updates do not depend on the sizes of tensors and gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from minigpt.check.parameters import parameter_sets
from minigpt.check.properties.surroundings import built, random_states_kept, refusals
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import AveragingOptimizer, NamedParameter

_UPDATES = 10
_SHAPES = ((16, 8), (4, 4), (512, 64), (64, 512))
_LEAST, _MOST = 0.05, 20.0
"""Bounds of an update's size, in learning rates: Muon with `match_rms_adamw` makes 0.2, Adam and Lion 1, SOAP up to 6."""


@dataclass(frozen=True)
class Sized:
    """One case: parameters of the optimizer, and the size of all gradients.

    Attributes:
        params: Parameters that differ from the defaults.
        size: Size of the gradients.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    size: float = 1.0


def _cases(target: Target) -> Sequence[Sized]:
    return [Sized(params, size) for params in parameter_sets(target) for size in (1.0, 1e-3, 1e3)]


@property_of("optimizer", cases=_cases)
@random_states_kept()
def adaptive(target: Target, case: Sized) -> None:
    """An optimizer that promises `adaptive` moves entries by about the learning rate on average, whatever the sizes."""
    recipe = built(target, case.params)
    if not recipe.adaptive:
        raise Unsuitable("it does not promise `adaptive`")
    generator = torch.Generator().manual_seed(0)
    table, *matrices = [nn.Parameter(torch.zeros(shape)) for shape in _SHAPES]
    parameters = [NamedParameter("embedding.table.weight", table, "embedding")]
    parameters += [
        NamedParameter(f"blocks.{layer}.ffn.into.weight", tensor, "matrix", layer) for layer, tensor in enumerate(matrices)
    ]
    with refusals():
        optimizer = recipe.build(parameters)
    means = [torch.randn(shape, generator=generator) for shape in _SHAPES]
    rates = {id(tensor): float(group["lr"]) for group in optimizer.param_groups for tensor in group["params"]}
    for _ in range(_UPDATES):
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.tensor.grad = case.size * (mean + torch.randn(mean.shape, generator=generator))
        optimizer.step()
    if isinstance(optimizer, AveragingOptimizer):
        optimizer.train()
    for parameter in parameters:
        moved = float(parameter.tensor.detach().square().mean().sqrt()) / _UPDATES / rates[id(parameter.tensor)]
        if not _LEAST <= moved <= _MOST:
            raise Violation(
                f"adaptive is promised, but with gradients of size {case.size:g} the entries of a tensor of shape "
                f"{list(parameter.tensor.shape)} move by {moved:.2g} times the learning rate",
                size=moved,
                cause="is the update divided by the gradient's size? does its size depend on the tensor's shape?",
            )
