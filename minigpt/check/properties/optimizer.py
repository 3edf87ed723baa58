"""The properties of optimizers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

from minigpt.check.agreement import equal
from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.properties.surroundings import built, other_seeds_and_clock, random_states, random_states_kept, refusals
from minigpt.check.property import Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import AveragingOptimizer, NamedParameter
from minigpt.errors import CheckpointError
from minigpt.run.checkpoint import Checkpoint
from minigpt.run.packing import pack, unpack
from minigpt.run.progress import Progress

Role = Literal["matrix", "embedding", "head", "vector"]

_ALL: tuple[Role, ...] = ("matrix", "embedding", "head", "vector")
_PARAMETERS: tuple[tuple[str, Role, tuple[int, ...]], ...] = (
    ("embedding.weight", "embedding", (7, 4)),
    ("positions.0.table.weight", "embedding", (9, 4)),
    ("blocks.0.attention.q.weight", "matrix", (4, 6)),
    ("blocks.0.attention.out.weight", "matrix", (6, 4)),
    ("blocks.1.attention.q.weight", "matrix", (5, 5)),
    ("blocks.1.attention.out.weight", "matrix", (5, 5)),
    ("blocks.1.ffn.into", "matrix", (3, 4, 5)),  # a stack of matrices, such as the weights of experts
    ("blocks.2.ffn.router.weight", "matrix", (1, 4)),
    ("blocks.2.attention_norm.weight", "vector", (4,)),
    ("blocks.2.attention.out.bias", "vector", (6,)),
    ("blocks.2.attention_gain", "vector", ()),
    ("blocks.3.attention.convolution.weight", "vector", (4, 1, 3)),  # the kernels of a depthwise convolution
    ("head.weight", "head", (7, 4)),
)
"""Names, roles and shapes as in a model of four layers."""

_ORDINARY = (1.0, 1.0, 1.0, 1.0, 1.0)
_SCALES = (1.0, 0.0, 1e-20, 1e4, 1e-3)
_LONG = 100  # steps after which an optimizer may do something, such as every fifty steps
_FACTORS = (0.5, 1.0, 0.25)  # factors of a schedule, repeated


@dataclass(frozen=True)
class Case:
    """One test case for an optimizer.

    Attributes:
        params: Parameters that differ from the defaults.
        scales: Size of the gradients at each step.
        roles: Roles of the parameters to optimize.
        missing: Whether every second parameter has no gradient in these steps.
        seed: Seed of weights and gradients.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    scales: tuple[float, ...] = _ORDINARY
    roles: tuple[Role, ...] = _ALL
    missing: bool = False
    seed: int = 0


def _cases(target: Target) -> list[Case]:
    base, *changed = parameter_sets(target)
    return [
        Case(base),
        Case(base, (0.0, 1.0, 1e4, 1e-20, 1.0), missing=True),
        Case(base, (0.0,) * 5),
        Case(base, (1e4,) * 5, missing=True),
        Case(base, (1e-20,) * 5),
        Case(base, roles=("matrix", "embedding")),
        Case(base, (), seed=1),
        *(Case(params, seed=number) for number, params in enumerate(changed)),
        *(Case(params, (0.0, 1e4, 1e-20), missing=True) for params in changed),
    ]


def _any_case(target: Target) -> st.SearchStrategy[Case]:
    roles: list[tuple[Role, ...]] = [("matrix", "embedding"), ("matrix", "embedding", "vector"), _ALL]
    return st.builds(
        Case,
        params=parameters(target),
        scales=st.lists(st.sampled_from(_SCALES), max_size=7).map(tuple),
        roles=st.sampled_from(roles),
        missing=st.booleans(),
        seed=st.integers(0, 99),
    )


class _Run:
    """An optimizer with its parameters and their random gradients."""

    def __init__(self, target: Target, case: Case, *, weights: Sequence[Tensor] | None = None):
        self.case = case
        self.parameters = _parameters(case, weights)
        recipe = built(target, case.params)
        with refusals():
            self.optimizer: torch.optim.Optimizer = recipe.build(self.parameters)
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise Violation(
                f"build returns a {type(self.optimizer).__name__}", cause="it must return a torch.optim.Optimizer"
            )
        if isinstance(self.optimizer, AveragingOptimizer) != recipe.averages:
            raise Violation(
                f"averages is {recipe.averages}, and build returns a {type(self.optimizer).__name__}",
                cause="the class must say `averages = True` if and only if its optimizer is an AveragingOptimizer",
            )
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]

    def step(self, number: int, scale: float = 1.0, *, missing: bool = False, factor: float | None = None) -> None:
        """Make one update like the trainer; with `missing`, every second parameter has no gradient."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * (_FACTORS[number % len(_FACTORS)] if factor is None else factor)
        generator = torch.Generator().manual_seed(1000 * self.case.seed + number)
        for index, parameter in enumerate(self.parameters):
            gradient = scale * torch.randn(parameter.tensor.shape, generator=generator)
            if gradient.ndim and number % 2:
                gradient[0] = 0  # like the embedding row of a token that is not in the batch
            parameter.tensor.grad = None if missing and index % 2 else gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def steps(self) -> None:
        """Make all steps of the case."""
        for number, scale in enumerate(self.case.scales):
            self.step(number, scale, missing=self.case.missing)

    def weights(self) -> list[Tensor]:
        """Return copies of the current weights."""
        return [parameter.tensor.detach().clone() for parameter in self.parameters]

    def differing(self, weights: Sequence[Tensor]) -> str | None:
        """Return the name of the first parameter that is not bit-identical to `weights`, or None."""
        pairs = zip(self.parameters, weights, strict=True)
        return next((p.name for p, before in pairs if not equal(p.tensor.detach(), before)), None)

    def average(self, weights: Literal["used", "trained"]) -> None:
        """Switch an averaging optimizer between its evaluation weights and its training weights."""
        if isinstance(self.optimizer, AveragingOptimizer):
            self.optimizer.eval() if weights == "used" else self.optimizer.train()


def _parameters(case: Case, weights: Sequence[Tensor] | None) -> list[NamedParameter]:
    generator = torch.Generator().manual_seed(case.seed)
    chosen = [(name, role, shape) for name, role, shape in _PARAMETERS if role in case.roles]
    drawn = [torch.randn(shape, generator=generator) for _, _, shape in chosen] if weights is None else weights
    return [
        NamedParameter(name, nn.Parameter(tensor.clone()), role, _layer(name))
        for (name, role, _), tensor in zip(chosen, drawn, strict=True)
    ]


def _layer(name: str) -> int | None:
    return int(name.split(".")[1]) if name.startswith("blocks.") else None


@property_of("optimizer", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def groups(target: Target, case: Case) -> None:
    """Every parameter is in exactly one group, and each group has a learning rate."""
    run = _Run(target, case)
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


@property_of("optimizer", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def finite(target: Target, case: Case) -> None:
    """Weights stay finite for gradients of any size, and change only with a gradient."""
    run = _Run(target, case)
    start = run.weights()
    run.steps()
    for weights in ("trained", "used"):
        run.average("used" if weights == "used" else "trained")
        bad = next((p.name for p in run.parameters if not torch.isfinite(p.tensor).all()), None)
        if bad is not None:
            raise Violation(
                f"{bad} is not finite after steps with gradients of size {', '.join(f'{x:g}' for x in case.scales)}",
                cause="is there a division by a norm or a root that may be zero, or a square that overflows?",
            )
    run.average("trained")
    for index, (parameter, before) in enumerate(zip(run.parameters, start, strict=True)):
        moved = not torch.equal(parameter.tensor.detach(), before)
        if moved and case.missing and index % 2:
            raise Violation(
                f"{parameter.name} changes without a gradient", cause="does a step skip parameters whose p.grad is None?"
            )
        if not moved and case.scales == _ORDINARY and not (case.missing and index % 2):
            raise Violation(
                f"{parameter.name} does not change in {len(case.scales)} steps",
                cause="is a new tensor created instead of changing p in place?",
            )


@property_of("optimizer", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def resumable(target: Target, case: Case) -> None:
    """The state_dict can be saved, and another optimizer continues from it bit for bit."""
    _check_neighbours(target, case)
    whole, saved = _Run(target, case), _Run(target, case)
    for run in (whole, saved):
        run.steps()
    saved.average("used")
    checkpoint = _checkpoint(saved.optimizer)
    resumed = _Run(target, case, weights=saved.weights())
    saved.average("trained")
    resumed_before = resumed.weights()
    checkpoint.load_optimizer(resumed.optimizer)
    if (name := resumed.differing(resumed_before)) is not None:
        raise Violation(f"load_state_dict changes {name}", cause="does it load weights? that is the trainer's task")
    resumed.average("trained")
    _check_equal(resumed, whole, "after the state is loaded, eval and train do not restore the weights", _INCOMPLETE_STATE)
    more = _LONG if case == _cases(target)[0] else 3
    for number in range(len(case.scales), len(case.scales) + more):
        for run in (whole, saved, resumed):
            run.step(number)
        _check_equal(saved, whole, "after saving, its steps differ", "does state_dict change the state?")
        _check_equal(resumed, whole, "resumed from its state, its steps differ", _INCOMPLETE_STATE)
    for run in (whole, resumed):
        run.average("used")
    _check_equal(resumed, whole, "resumed from its state, its averages differ", _INCOMPLETE_STATE)


_SHARED_STATE = "is state kept in the class or the module instead of self.state? a random number, or the clock?"
_INCOMPLETE_STATE = (
    "is something kept outside self.state and the groups, or rounded when saved? is a tensor of the state transposed? "
    "Files keep no strides, and then products round differently: .contiguous()"
)


def _check_equal(run: _Run, other: _Run, what: str, cause: str) -> None:
    if (name := run.differing(other.weights())) is not None:
        raise Violation(f"{what}: {name} differs", cause=cause)


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
    undisturbed, interleaved, other = _Run(target, case), _Run(target, case), _Run(target, replace(case, seed=case.seed + 1))
    for number in range(3):
        undisturbed.step(number)
    for number in range(3):
        other.step(number, 3.0)
        interleaved.step(number)
    _check_equal(interleaved, undisturbed, "a second optimizer for equal weights makes different steps", _SHARED_STATE)


@property_of("optimizer", cases=_cases, strategy=_any_case)
@random_states_kept()
def step(target: Target, case: Case) -> None:
    """Weights change only in a step with a learning rate above 0, without random numbers or the clock."""
    _check_calls(target, case)
    _check_no_rate(target, case)
    before = random_states()
    run = _Run(target, case)
    run.steps()
    drawn = [name for name, state in random_states().items() if state != before[name]]
    if drawn:
        raise Violation(
            f"it draws or seeds {drawn[0]}'s global random numbers",
            cause="noise needs a private generator, seeded from the saved state",
        )
    with other_seeds_and_clock():
        other = _Run(target, case)
        other.steps()
    _check_equal(other, run, "with other random seeds and another time, its steps differ", "a random number, or the clock?")


def _check_calls(target: Target, case: Case) -> None:
    start = [parameter.tensor.detach().clone() for parameter in _parameters(case, None)]
    run = _Run(target, case)
    if (name := run.differing(start)) is not None:
        raise Violation(f"build changes {name}", cause="does it initialise weights? that is the model's task")
    for when in ("before the first step", "after several steps"):
        start = run.weights()
        calls: dict[str, Callable[[], object]] = {
            "zero_grad": run.optimizer.zero_grad,
            "state_dict": run.optimizer.state_dict,
            "load_state_dict": lambda: run.optimizer.load_state_dict(run.optimizer.state_dict()),
        }
        for call, make in calls.items():
            make()
            if (name := run.differing(start)) is not None:
                raise Violation(f"{call} changes {name} {when}", cause="does it update weights? only step() may do that")
        run.steps()


def _check_no_rate(target: Target, case: Case) -> None:
    for steps in (0, len(case.scales)):
        run = _Run(target, replace(case, scales=case.scales[:steps]))
        run.steps()
        for number in (steps, steps + 1):
            before = run.weights()
            run.step(number, factor=0.0)
            if (name := run.differing(before)) is not None:
                raise Violation(
                    f"after {steps} steps, a step with a learning rate of 0 changes {name}",
                    cause='is weight decay multiplied by the learning rate, and is that rate group["lr"]?',
                )


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> bytes:
    """Return training and evaluation weights after steps with gradients of several sizes.

    Raises:
        Unsuitable: The optimizer refuses these parameters.
    """
    scales = (1.0, 0.1, 3.0, 0.0, 1.0, 1e-3)
    run = _Run(target, Case(params, (*scales, *scales, *scales)))
    run.steps()
    trained = run.weights()
    run.average("used")
    return b"".join(weight.numpy().tobytes() for weight in (*trained, *run.weights()))
