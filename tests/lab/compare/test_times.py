"""Tests that times of runs are compared only if no other processes used the machine."""

from __future__ import annotations

from typing import Any

import pytest

from minigpt.lab.compare.record import RunResult
from minigpt.lab.compare.spread import Spread, speed_spread
from minigpt.lab.compare.times import share_of_others, why_not_comparable
from minigpt.run.status import Status
from minigpt.training.other_processes import ALONE
from tests.lab.compare.results import comparison, run
from tests.records import row


def finished(seed: int, others: float | None = 0.0, machine: str = "here", **changes: Any) -> RunResult:
    return run(seed, others=others, machine=machine, **changes)


def test_the_load_from_other_processes_is_summed_over_the_run() -> None:
    """Also over sessions: `wall` continues, and each row's load was measured since the previous row."""
    rows = [row(1, wall=1.0), row(2, wall=2.0, other_cpu=1.6), row(3, wall=4.0, other_cpu=-0.02), row(4, wall=9.0)]
    assert share_of_others(rows, 2) == pytest.approx(1.58 / 4 / 2)
    assert share_of_others(rows, None) == pytest.approx(1.58 / 4)
    assert share_of_others([row(1, wall=1.0, other_cpu=-0.02)], 2) == 0
    assert share_of_others([row(1, wall=1.0)], 2) is None
    assert share_of_others([], 2) is None


@pytest.mark.parametrize(
    ("variants", "why"),
    [
        ({"base": [finished(1), finished(2)], "other": [finished(1, ALONE)]}, None),
        ({"base": [finished(1)], "other": [finished(1, 0.9, outcome=Status.DIVERGED)]}, None),
        (
            {"base": [finished(1, 0.4)], "other": [finished(1, 0.25)]},
            "used 25% to 40% of the machine's processors while all runs trained",
        ),
        (
            {"base": [finished(1)], "other": [finished(1, 0.4)]},
            "used 40% of the machine's processors while other (seed 1) trained",
        ),
        ({"base": [finished(n) for n in range(6)], "o": [finished(n, 0.5) for n in range(6)]}, "while 6 of 12 runs trained"),
        ({"base": [finished(1)], "other": [finished(1, None)]}, "the load from other processes was not recorded while"),
        ({"base": [finished(1)], "other": [finished(1, 0.0, "there")]}, "trained on different machines: here; there"),
    ],
)
def test_the_reason_why_times_cannot_be_compared_is_given(variants: dict[str, list[RunResult]], why: str | None) -> None:
    found = why_not_comparable(comparison(**variants).variants)
    assert found == why if why is None or found is None else why in found


def test_a_spread_covers_seeds_and_the_middle_half_of_updates() -> None:
    spread = speed_spread([100.0, 120.0], [(90.0, 130.0), (95.0, 125.0)])
    assert spread == Spread(110.0, 90.0, 130.0)
    assert spread.shown("{:.0f}".format) == "110 (90 to 130)"
    assert Spread(1.0, 0.99, 1.01).shown("{:.0f}".format) == "1"
    assert speed_spread([], []) is None
