"""The properties of schedules."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.properties.surroundings import built, other_seeds_and_clock, random_states_kept
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Schedule


@dataclass(frozen=True)
class Case:
    """One test case for a schedule.

    Attributes:
        params: Parameters that differ from the defaults.
        max_iters: Number of updates of the whole training.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    max_iters: int = 1


def _cases(target: Target) -> list[Case]:
    base, *changed = parameter_sets(target)
    defaults = [Case(base, max_iters) for max_iters in (1, 100, 2, 3, 7, 1000, 4999, 1_000_000)]
    return [*defaults, *(Case(params, max_iters) for params in changed for max_iters in (1, 2, 3, 50, 1000))]


def _any_case(target: Target) -> st.SearchStrategy[Case]:
    return st.builds(Case, parameters(target), st.one_of(st.integers(1, 12), st.integers(1, 5000)))


def _built(target: Target, case: Case) -> Schedule:
    schedule: Schedule = built(target, case.params, case.max_iters)
    return schedule


@property_of("schedule", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def function(target: Target, case: Case) -> None:
    """A factor depends only on the step: not on the order or number of calls, nor on the instance."""
    schedule = _built(target, case)
    steps = sorted(
        {*range(min(200, case.max_iters)), *range(0, case.max_iters, 1 + case.max_iters // 100), case.max_iters - 1}
    )
    first = {step: schedule.factor(step) for step in steps}
    shuffled = random.Random(case.max_iters).sample(steps, len(steps))
    orders = {"when it is called again": steps, "in reversed order": steps[::-1], "in another order": shuffled}
    for when, order in orders.items():
        _check_same(first, {step: schedule.factor(step) for step in order}, when, case)
    with other_seeds_and_clock():
        other = _built(target, case)
        _check_same(first, {step: other.factor(step) for step in shuffled}, "from another instance", case)


def _check_same(first: Mapping[int, float], again: Mapping[int, float], when: str, case: Case) -> None:
    for step, factor in first.items():
        if again[step] != factor and not (_is_nan(factor) and _is_nan(again[step])):
            raise Violation(
                f"the factor of step {step} of {case.max_iters} is {factor}, but {again[step]} {when}",
                at=step,
                cause="does it count calls, keep the last factor, draw random numbers, or read the clock?",
            )


def _is_nan(factor: float) -> bool:
    return factor != factor


def _steps(max_iters: int) -> list[int]:
    """Return all steps, or of a long training the first, some in between, and the last."""
    if max_iters <= _ALL_STEPS:
        return [*range(max_iters)]
    between = range(_ALL_STEPS // 2, max_iters, max_iters // _ALL_STEPS)
    return [*range(_ALL_STEPS // 2), *between, *range(max_iters - 10, max_iters)]


_ALL_STEPS = 5000
_MANY = 1000
"""A training of so many updates or more has a rate above 0 in one of them."""
_LARGEST = 2.0
"""A share of the peak is at most 1; more than this is a mistake in the formula."""


@property_of("schedule", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def finite(target: Target, case: Case) -> None:
    """Factors are finite, not negative, not far above 1 and not all 0, for any length of training."""
    schedule = _built(target, case)
    largest = 0.0
    for step in _steps(case.max_iters):
        factor = schedule.factor(step)
        where = f"the factor of step {step} of {case.max_iters} is {factor!r}"
        if not isinstance(factor, float | int) or isinstance(factor, bool):
            raise Violation(
                f"{where}, a {type(factor).__name__}",
                at=step,
                cause="it must be a float: use float(...) for a tensor or a numpy number",
            )
        if not math.isfinite(factor):
            raise Violation(where, at=step, cause="is there a division by a length of zero, for example if max_iters is 1?")
        if factor < 0:
            raise Violation(where, at=step, cause="does the schedule end before training? use max(0.0, ...)")
        if factor > _LARGEST:
            raise Violation(
                f"{where}, far above 1",
                at=step,
                cause="is it a step, a rate or a per cent, or does a warm-up not end? it is a share of the peak",
            )
        largest = max(largest, factor)
    if not largest and case.max_iters >= _MANY:
        raise Violation(
            f"every factor of {case.max_iters} updates is 0", cause="is a share rounded to a whole number, as // does?"
        )


def _long_cases(target: Target) -> list[Case]:
    """Return a training for each parameter set that is so long that a warm-up or a decay of a share of it is no jump."""
    return [Case(params, 100_000) for params in parameter_sets(target)]


_JUMP = 0.1
"""A larger change from one update to the next is a jump, if the changes near it are much smaller."""

_NEAR = 8
"""Changes before and after one that are near it."""


@property_of("schedule", cases=_long_cases, quick=1)
@random_states_kept()
def gradual(target: Target, case: Case) -> None:
    """A factor does not jump from one update to the next, unless `jumps` is set; the first two updates may."""
    schedule = _built(target, case)
    if schedule.jumps:
        raise Unsuitable("it declares `jumps`")
    step = _jump(schedule, case.max_iters)
    if step is not None:
        before, after = schedule.factor(step - 1), schedule.factor(step)
        raise Violation(
            f"from step {step - 1} to step {step} of {case.max_iters} the factor jumps from {before:.3g} to {after:.3g}",
            at=step,
            cause="do two parts of the schedule meet at different values? if it shall jump, set jumps = True",
        )


def _jump(schedule: Schedule, max_iters: int) -> int | None:
    """Return the first step with a jump, or None."""
    factors = np.array([schedule.factor(step) for step in range(max_iters)], dtype=np.float64)
    changes = np.abs(np.diff(factors))
    for place in np.flatnonzero(changes > _JUMP):
        if place < 2:
            continue
        near = changes[max(0, place - _NEAR) : place + _NEAR + 1]
        if np.count_nonzero(near > changes[place] / 4) <= 2:  # one change, or two of a single update
            return int(place) + 1
    return None


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> list[float]:
    """Return all factors of a short and of a long training.

    Raises:
        Unsuitable: The schedule refuses these parameters.
    """
    schedules = ((max_iters, _built(target, Case(params, max_iters))) for max_iters in (50, 1000))
    return [schedule.factor(step) for max_iters, schedule in schedules for step in range(max_iters)]
