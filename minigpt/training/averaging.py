"""Optimizers that train at other weights than those they answer with."""

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
    """Within it the model has the weights to be used; after it, to the bit, those to be trained."""
    if not isinstance(optimizer, AveragingOptimizer):
        yield
        return
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()


def refuse_constrained_weights(experiment: Experiment, model: GPT) -> None:
    """Weights that are kept at a length by `after_step` do not keep it in an average.

    Args:
        experiment: Which optimizer.
        model: Left alone: what `after_step` does is tried on a copy.

    Raises:
        ExperimentError: An optimizer that averages, and a model that constrains what it trains.
    """
    spec = experiment.training.optimizer
    if not isinstance(spec.build().build(list(model.named_roles())), AveragingOptimizer):
        return
    trial = copy.deepcopy(model)
    trained = {parameter.name: parameter.tensor for parameter in trial.named_roles()}
    with torch.no_grad():
        for tensor in trained.values():
            tensor.mul_(2)  # what is kept at a length has it no longer, and is seen to get it back
    # Versions tell of every ordinary change; values, of one that goes past them by `.data`.
    before = {name: (tensor._version, tensor.detach().clone()) for name, tensor in trained.items()}
    trial.after_step()
    for name, tensor in trained.items():
        version, value = before[name]
        if tensor._version != version or not torch.equal(tensor, value):
            text = (
                f"{spec.name} answers with an average of weights, and an average does not keep the constraint that this "
                f"model puts on {name} after every update; choose an optimizer that does not average, such as adamw"
            )
            raise ExperimentError([Problem((spec.where,), text)])
