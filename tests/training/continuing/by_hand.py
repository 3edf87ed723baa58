"""A run that is continued by hand, from tensors and counts of its checkpoint: the reference for `resume`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigpt.contracts import AveragingOptimizer
from minigpt.data import load_corpus, train_batch
from minigpt.model import build_model
from minigpt.reading import Reading
from minigpt.run import RunFolder, checkpoint
from minigpt.training import resume
from minigpt.training.loop import compute_gradients, take_step
from minigpt.training.machine import build_optimizer
from minigpt.training.seeds import seed_generators, stream_seed
from tests.training.conftest import Watcher

CPU = torch.device("cpu")

Stopped = Callable[..., RunFolder]


def document(place: Path, optimizer: str, schedule: str) -> dict[str, Any]:
    rate = {"learning_rate": 1e-3}
    wraps = optimizer in ("ema", "lawa")
    settings = {"name": optimizer, **({"optimizer": {"name": "adamw", **rate}} if wraps else rate)}
    return {
        "name": "small",
        "data": {"name": "text", "paths": [str(place / "corpus.txt")]},
        "model": {"d_model": 16, "n_heads": 2, "n_layers": 1, "block_size": 16, "dropout": 0.1},
        "training": {
            "optimizer": settings,
            "schedule": schedule,
            "batch_size": 4,
            "max_iters": 6,
            "eval_interval": 5,
            "precision": "fp32",
            "compile": False,
        },
        "sampling": {"max_new_tokens": 2},
    }


def continued_by_hand(folder: RunFolder, overrides: list[str]) -> dict[str, Tensor]:
    """The reference weights after the last update.

    Everything is built from the changed settings; only tensors and counts come from the checkpoint.
    """
    experiment = folder.experiment(Reading(tuple(overrides)))
    corpus, start = load_corpus(experiment, folder.learned()), checkpoint.load(folder.checkpoints)
    assert start is not None
    precision = experiment.training.precision
    model = build_model(experiment, corpus.vocab_size)
    model.load_state_dict(start.weights)
    optimizer = build_optimizer(experiment, model, precision)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, state in start.optimizer["state"].items():
        optimizer.state[parameters[index] if isinstance(index, int) else index] = copy.deepcopy(state)
    for group, saved in zip(optimizer.param_groups, start.optimizer["param_groups"], strict=True):
        group.update({key: saved[key] for key in ("step", "sum") if key in saved})
    if isinstance(optimizer, AveragingOptimizer):
        optimizer.train()
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = experiment.training.schedule.build(experiment.training.max_iters)
    model.train()
    for step in range(start.progress.step, experiment.training.max_iters):
        seed_generators(stream_seed(experiment.seed, step, 0), CPU)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule.factor(step)
        compute_gradients(model, train_batch(corpus, experiment, step), experiment, precision)
        take_step(model, optimizer)
    if isinstance(optimizer, AveragingOptimizer):
        optimizer.eval()
    return model.state_dict()


def weights(folder: RunFolder) -> dict[str, Tensor]:
    last = checkpoint.load(folder.checkpoints)
    assert last is not None
    return last.weights


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def resumed_as_by_hand(folder: RunFolder, overrides: list[str], *, changes_weights: bool = True) -> RunFolder:
    """Resume with these settings, and compare the weights with the reference."""
    before, expected = continued_by_hand(folder, []), continued_by_hand(folder, overrides)
    assert equal(before, expected) != changes_weights
    assert resume(folder.path, overrides=overrides, observer=Watcher()).status == "finished"
    assert equal(weights(folder), expected)
    return folder
