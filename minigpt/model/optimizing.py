"""An optimizer over a model's parameters, with the factors that the model's initialisation prescribes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch

from minigpt.contracts import Factors, Optimizer, Ramp
from minigpt.errors import ExperimentError, Problem
from minigpt.model.gpt import GPT
from minigpt.registry import Spec


def optimizer_of(spec: Spec[Optimizer], model: GPT) -> torch.optim.Optimizer:
    """The optimizer of a model. Groups are divided where the initialisation gives their parameters different factors.

    Raises:
        ExperimentError: The initialisation's factors do not suit this optimizer, or it refuses these parameters with a
            ValueError.
    """
    recipe = spec.build()
    if model.init.needs_adaptive and not recipe.adaptive:
        text = (
            "model.init scales learning rates as Adam needs it, and this optimizer's updates depend on the sizes of "
            "gradients or matrices; choose an adaptive one, such as adamw, or another model.init"
        )
        raise ExperimentError([Problem(("training.optimizer",), text)])
    parameters = list(model.named_roles())
    with spec.errors_located():
        optimizer = recipe.build(parameters)
    factors = {id(parameter.tensor): model.init.factors(parameter) for parameter in parameters}
    # In place, because an optimizer that wraps another one shares its list of groups.
    optimizer.param_groups[:] = [part for group in optimizer.param_groups for part in _divided(group, factors)]
    return optimizer


def _divided(group: dict[str, Any], factors: Mapping[int, Factors]) -> Iterator[dict[str, Any]]:
    """A group in parts with equal factors, multiplied by them; a group whose factors are all 1 stays as it is."""
    for kind in dict.fromkeys(factors[id(tensor)] for tensor in group["params"]):
        if kind == Factors() and all(factors[id(tensor)] == kind for tensor in group["params"]):
            yield group
            return
        scaled = {key: group[key] * factor for key, factor in asdict(kind).items() if key in group}
        if ramps := group.get("ramps"):
            scaled["ramps"] = {
                key: Ramp.model_validate(ramp).times(getattr(kind, key, 1.0)).model_dump() for key, ramp in ramps.items()
            }
        yield {**group, **scaled, "params": [tensor for tensor in group["params"] if factors[id(tensor)] == kind]}
