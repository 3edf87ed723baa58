"""Optimizers that evaluate with an average of the weights which they train."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from minigpt.contracts import AveragingOptimizer
from minigpt.errors import ExperimentError, Problem
from minigpt.experiment import Experiment
from minigpt.model import GPT


@contextmanager
def answering(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Swap in the evaluation weights; restore the training weights, bit for bit, on exit."""
    if not isinstance(optimizer, AveragingOptimizer):
        yield
        return
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()


def refuse_constrained_weights(experiment: Experiment, model: GPT) -> None:
    """Refuse an averaging optimizer for a model whose `after_step` constrains weights.

    An average of weights with a fixed norm does not have that norm.

    Args:
        experiment: Names the optimizer.
        model: Not changed: `after_step` is tried on a copy.

    Raises:
        ExperimentError: The optimizer averages, and the model constrains trained weights; or it refuses the parameters.
    """
    spec = experiment.training.optimizer
    with spec.errors_located():
        optimizer = spec.build().build(list(model.named_roles()))
    if not isinstance(optimizer, AveragingOptimizer):
        return
    trial = copy.deepcopy(model)
    trained = {parameter.name: parameter.tensor for parameter in trial.named_roles()}
    with torch.no_grad():
        for tensor in trained.values():
            tensor.mul_(2)  # violates any norm constraint, so that `after_step` has to restore it
    # The version counter records ordinary in-place changes; comparing values also detects changes through `.data`.
    before = {name: (tensor._version, tensor.detach().clone()) for name, tensor in trained.items()}
    trial.after_step()
    for name, tensor in trained.items():
        version, value = before[name]
        if tensor._version != version or not torch.equal(tensor, value):
            text = (
                f"{spec.name} evaluates with an average of weights, and an average violates the constraint that this "
                f"model puts on {name} after every update; choose an optimizer that does not average, such as adamw"
            )
            raise ExperimentError([Problem((spec.where,), text)])
