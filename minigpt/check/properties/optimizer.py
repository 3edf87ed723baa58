"""The properties of optimizers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from minigpt.check.optimizer_run import ORDINARY, Case, Run, any_case, cases, check_equal
from minigpt.check.parameters import parameter_sets
from minigpt.check.properties.surroundings import random_states_kept
from minigpt.check.property import Violation, property_of
from minigpt.check.targets import Target
from minigpt.errors import CheckpointError
from minigpt.run.checkpoint import Checkpoint
from minigpt.run.packing import pack, unpack
from minigpt.run.progress import Progress


@property_of("optimizer", cases=cases, strategy=any_case, quick=2)
@random_states_kept()
def groups(target: Target, case: Case) -> None:
    """Every parameter is in exactly one group, and each group has a learning rate."""
    run = Run(target, case)
    names = {id(parameter.tensor): parameter.name for parameter in run.parameters}
    grouped = [id(tensor) for group in run.optimizer.param_groups for tensor in group["params"]]
    for key, name in names.items():
        if grouped.count(key) != 1:
            places = "in no group" if key not in grouped else f"in {grouped.count(key)} groups"
            raise Violation(f"{name} is {places}", cause="does a filter by role or by shape omit or repeat it?")
    if len(grouped) != len(names):
        raise Violation(
            f"{len(grouped) - len(names)} tensors in the groups are not parameters of the model",
            cause="does it optimize tensors that are not parameters? a run does not save them",
        )
    for number, peak in enumerate(run.peaks):
        if not (math.isfinite(peak) and peak > 0):
            raise Violation(
                f"the learning rate of group {number} is {peak}",
                at=number,
                cause='is "lr" the peak rate? the schedule multiplies it in each group',
            )


def _cases_with_many_steps(target: Target) -> list[Case]:
    return [*cases(target), Case(parameter_sets(target)[0], (1.0,), repeated=1500, tiny=True)]


@property_of("optimizer", cases=_cases_with_many_steps, strategy=any_case, quick=2)
@random_states_kept()
def finite(target: Target, case: Case) -> None:
    """Weights stay finite for gradients of any size, and change only with a gradient."""
    run, sizes = Run(target, case), ", ".join(f"{scale:g}" for scale in dict.fromkeys(case.scales))
    start = run.weights()
    run.steps()
    for weights in ("trained", "used"):
        run.average("used" if weights == "used" else "trained")
        bad = next((p.name for p in run.parameters if not torch.isfinite(p.tensor).all()), None)
        if bad is not None:
            raise Violation(
                f"{bad} is not finite after steps with gradients of size {sizes} ({case.n_steps} in all)",
                cause="is there a division by a norm or a root that may be zero, or a square that overflows?",
            )
    run.average("trained")
    for index, (parameter, before) in enumerate(zip(run.parameters, start, strict=True)):
        moved = not torch.equal(parameter.tensor.detach(), before)
        if moved and case.missing and index % 2:
            raise Violation(
                f"{parameter.name} changes without a gradient", cause="does a step skip parameters whose p.grad is None?"
            )
        if not moved and case.scales == ORDINARY and not (case.missing and index % 2):
            raise Violation(
                f"{parameter.name} does not change in {case.n_steps} steps",
                cause="is a new tensor created instead of changing p in place?",
            )


def _cases_to_resume(target: Target) -> list[Case]:
    """Return many steps before and after saving, then the usual cases.

    The numbers of steps before saving are primes, because a period that divides them would not show.
    """
    base, ones, (_, *few) = parameter_sets(target)[0], (1.0,), cases(target)
    return [
        Case(base, ones, repeated=61, after=59),
        *few,
        Case(base, ones, missing=True, repeated=61, after=59),
        Case(base, ones, repeated=701, after=799, tiny=True),
    ]


@property_of("optimizer", cases=_cases_to_resume, strategy=any_case, quick=2)
@random_states_kept()
def resumable(target: Target, case: Case) -> None:
    """The state_dict can be saved, and another optimizer continues from it bit for bit."""
    _check_neighbours(target, case)
    saved = Run(target, case)
    whole = saved if case.repeated > 1 else Run(target, case)  # two runs of many steps take long enough
    for run in dict.fromkeys((whole, saved)):
        run.steps()
    saved.average("used")
    checkpoint = _checkpoint(saved.optimizer)
    resumed = Run(target, case, weights=saved.weights())
    saved.average("trained")
    resumed_before = resumed.weights()
    try:
        checkpoint.load_optimizer(resumed.optimizer)
    except CheckpointError as error:
        raise Violation(
            f"after {case.n_steps} steps its state is saved, but not loaded: {error}",
            cause="does a new optimizer have the same groups and keys, with values of the same kinds?",
        ) from error
    if (name := resumed.differing(resumed_before)) is not None:
        raise Violation(f"load_state_dict changes {name}", cause="does it load weights? that is the trainer's task")
    resumed.average("trained")
    check_equal(resumed, whole, "after the state is loaded, eval and train do not restore the weights", _INCOMPLETE_STATE)
    for number in range(case.n_steps, case.n_steps + case.after):
        for run in dict.fromkeys((whole, saved, resumed)):
            run.step(number)
        check_equal(saved, whole, "after saving, its steps differ", "does state_dict change the state?")
        check_equal(resumed, whole, "resumed from its state, its steps differ", _INCOMPLETE_STATE)
    for run in (whole, resumed):
        run.average("used")
    check_equal(resumed, whole, "resumed from its state, its averages differ", _INCOMPLETE_STATE)


_SHARED_STATE = "is state kept in the class or the module instead of self.state? a random number, or the clock?"
_INCOMPLETE_STATE = (
    "is something kept outside self.state and the groups, or rounded when saved? is a tensor of the state transposed? "
    "Files keep no strides, and then products round differently: .contiguous()"
)


def _checkpoint(optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Return the optimizer's state as it is read from a checkpoint file."""
    tensors: dict[str, Tensor] = {}
    try:
        packed = json.dumps(pack(optimizer.state_dict(), tensors))
    except CheckpointError as error:
        raise Violation(
            f"its state_dict cannot be saved: {error}",
            cause="does self.state hold anything except tensors, numbers, text, lists and dicts?",
        ) from error
    state = unpack(json.loads(packed), load(save(tensors)))
    if not isinstance(state, dict):
        raise Violation("its state_dict is not a dict", cause="what does state_dict() return?")
    return Checkpoint(Path("checkpoint"), {}, state, Progress())


def _check_neighbours(target: Target, case: Case) -> None:
    """Check that two equal optimizers make equal steps, also if a third one steps in between."""
    undisturbed, interleaved, other = Run(target, case), Run(target, case), Run(target, replace(case, seed=case.seed + 1))
    for number in range(3):
        undisturbed.step(number)
    for number in range(3):
        other.step(number, 3.0)
        interleaved.step(number)
    check_equal(interleaved, undisturbed, "a second optimizer for equal weights makes different steps", _SHARED_STATE)


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> bytes:
    """Return training and evaluation weights after steps with gradients of several sizes.

    Raises:
        Unsuitable: The optimizer refuses these parameters.
    """
    scales = (1.0, 0.1, 3.0, 0.0, 1.0, 1e-3)
    run = Run(target, Case(params, (*scales, *scales, *scales)))
    run.steps()
    trained = run.weights()
    run.average("used")
    return b"".join(weight.numpy().tobytes() for weight in (*trained, *run.weights()))
