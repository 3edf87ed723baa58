"""The property of an optimizer's steps: what they depend on, and what they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from minigpt.check.optimizer_run import ORDINARY, Case, Run, any_case, cases, check_equal, initial_weights
from minigpt.check.properties.surroundings import other_seeds_and_clock, random_states, random_states_kept
from minigpt.check.property import Violation, property_of
from minigpt.check.targets import Target


@property_of("optimizer", cases=cases, strategy=any_case)
@random_states_kept()
def step(target: Target, case: Case) -> None:
    """Only a step changes weights, and only those of groups with a rate; it keeps gradients and draws no global numbers."""
    _check_calls(target, case)
    _check_no_rate(target, case)
    _check_gradients(target, case)
    if case.scales == ORDINARY and not case.missing:
        _check_rates_of_groups(target, case)
    before = random_states()
    run = Run(target, case)
    run.steps()
    drawn = [name for name, state in random_states().items() if state != before[name]]
    if drawn:
        raise Violation(
            f"it draws or seeds {drawn[0]}'s global random numbers",
            cause="noise needs a private generator, seeded from the saved state",
        )
    with other_seeds_and_clock():
        other = Run(target, case)
        other.steps()
    check_equal(other, run, "with other random seeds and another time, its steps differ", "a random number, or the clock?")


def _check_calls(target: Target, case: Case) -> None:
    run = Run(target, case)
    if (name := run.differing(initial_weights(case))) is not None:
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
    """Check that at a rate of 0 weights stay from the first step on, and settle after steps with a rate."""
    run = Run(target, case)
    start = run.weights()
    for number in range(_STEPS):
        run.step(number, factor=0.0)
        if (name := _outside(run, start, start)) is not None:
            raise Violation(
                f"after {number} steps, a step with a learning rate of 0 changes {name}",
                at=number,
                cause='is weight decay multiplied by the learning rate, and is that rate group["lr"]?',
            )
    run = Run(target, case)
    low, high = run.weights(), run.weights()
    for number, scale in enumerate(case.scales):
        run.step(number, scale, missing=case.missing)
        low, high = list(map(torch.minimum, low, run.weights())), list(map(torch.maximum, high, run.weights()))
    for number in range(len(case.scales), len(case.scales) + _STEPS):
        run.step(number, factor=0.0)
        if (name := _outside(run, low, high)) is not None:
            # Slow weights draw the trained ones back, and an inertia carries them further for a while. Neither lasts.
            if _settles(target, case):
                return
            raise Violation(
                f"after {len(case.scales)} steps, steps with a learning rate of 0 change {name}, without an end",
                at=number,
                cause='is the rate of each step group["lr"], not one that was kept from an earlier step?',
            )


_STEPS = 12
_ROUNDING = 2e-6
"""A relative change below this is rounding, such as that of a mean of equal weights."""


def _outside(run: Run, low: Sequence[Tensor], high: Sequence[Tensor]) -> str | None:
    """Return the name of the first parameter with a value that is not between two others, or None."""
    for parameter, least, most in zip(run.parameters, low, high, strict=True):
        slack = _ROUNDING * torch.maximum(least.abs(), most.abs())
        now = parameter.tensor.detach()
        if not ((now >= least - slack) & (now <= most + slack)).all():
            return parameter.name
    return None


def _settles(target: Target, case: Case) -> bool:
    """Return whether weights come to rest in many steps with a learning rate of 0 after a few with a rate."""
    run = Run(target, replace(case, tiny=True))
    for number in range(len(ORDINARY)):
        run.step(number)
    changes: list[float] = []
    for number in range(len(ORDINARY), 600):
        before = run.weights()
        run.step(number, factor=0.0)
        changes.append(max(float((new - old).abs().max()) for new, old in zip(run.weights(), before, strict=True)))
    return max(changes[-_STEPS:]) <= 1e-2 * max(changes[:_STEPS])


def _check_gradients(target: Target, case: Case) -> None:
    """Check that a step leaves gradients as they are, because an optimizer around this one may use them."""
    run = Run(target, case)
    for number, scale in enumerate(case.scales):
        run.set_gradients(number, scale, missing=case.missing)
        given = [None if parameter.tensor.grad is None else parameter.tensor.grad.clone() for parameter in run.parameters]
        run.optimizer.step()
        for parameter, before in zip(run.parameters, given, strict=True):
            after = parameter.tensor.grad
            if (after is None) != (before is None) or (
                after is not None and before is not None and not torch.equal(after, before)
            ):
                raise Violation(
                    f"step {number} changes the gradient of {parameter.name}",
                    at=number,
                    cause="an operation that ends in _ on p.grad, or on what is the same tensor? p.grad.clone()",
                )


def _check_rates_of_groups(target: Target, case: Case) -> None:
    """Check that a rate of 0 in one group stops that group alone; a single group is divided, as by `Init.factors`."""

    def divided() -> Run:
        run = Run(target, case)
        groups = run.optimizer.param_groups
        if len(groups) == 1 and len(groups[0]["params"]) > 1:
            tensors = groups[0]["params"]
            groups[:] = [{**groups[0], "params": tensors[::2]}, {**groups[0], "params": tensors[1::2]}]
            run.peaks *= 2
        return run

    for resting, group in enumerate(divided().optimizer.param_groups):
        if not group["params"] or len(divided().optimizer.param_groups) == 1:
            continue
        run = divided()
        start, own = run.weights(), {id(tensor) for tensor in run.optimizer.param_groups[resting]["params"]}
        for number in range(_STEPS):
            run.step(number, resting=resting)
        for parameter, before in zip(run.parameters, start, strict=True):
            moved = not torch.allclose(parameter.tensor.detach(), before, _ROUNDING, 0.0)
            if moved == (id(parameter.tensor) in own):
                which = "in that group changes" if moved else "in another group does not change"
                raise Violation(
                    f"while the learning rate of group {resting} is 0, {parameter.name} {which}",
                    at=resting,
                    cause="does each step use the rate of the parameter's group?",
                )
