"""The properties of schedules."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.properties.surroundings import built, other_seeds_and_clock, random_states_kept
from minigpt.check.property import Violation, property_of
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
    defaults = [Case(base, max_iters) for max_iters in (1, 100, 2, 3, 7, 1000, 4999)]
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


@property_of("schedule", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def finite(target: Target, case: Case) -> None:
    """Factors are finite and not negative at every step, for any length of training."""
    schedule = _built(target, case)
    for step in range(case.max_iters):
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


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> list[float]:
    """Return all factors of a short and of a long training.

    Raises:
        Unsuitable: The schedule refuses these parameters.
    """
    schedules = ((max_iters, _built(target, Case(params, max_iters))) for max_iters in (50, 1000))
    return [schedule.factor(step) for max_iters, schedule in schedules for step in range(max_iters)]
