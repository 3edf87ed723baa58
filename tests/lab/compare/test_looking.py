"""Tests that seeds are added until there is a verdict, from simulated losses: nothing is trained."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.lab.compare import comparing, results
from minigpt.lab.compare import plan as plan_module
from minigpt.lab.compare.grid import Cell, Grid
from minigpt.lab.compare.plan import ComparisonPlan, Settings, make_plan
from minigpt.lab.compare.record import Comparison, RunResult
from minigpt.lab.compare.seeds import SeedRange
from minigpt.lab.statistics import Verdict, verdicts
from minigpt.training.stopping import StopNow
from tests.lab.compare.conftest import writer
from tests.lab.compare.results import comparison, run

FIRST, MOST = 3, 6


@dataclass
class Simulated:
    """Runs whose losses are known beforehand. A run without a loss crashes.

    Attributes:
        losses: The loss by variant and seed.
        kills: After how many runs each call of the command is killed.
        backwards: Whether the last cell of a stage ends first.
        trained: The cells that have ended, in this order.
    """

    losses: dict[tuple[str, int], float | None]
    kills: Iterator[int] = field(default_factory=lambda: iter(()))
    backwards: bool = False
    trained: list[tuple[str, int]] = field(default_factory=list)

    def run(self, grid: Grid, *_: Any, **__: Any) -> None:
        """The same as `Grid.run`, without training."""
        missing = grid.missing()
        for cell in reversed(missing) if self.backwards else missing:
            if self.left == 0:
                raise StopNow
            self.left -= 1
            self.trained.append((cell.variant.name, cell.seed))

    def outcome(self, cell: Cell) -> bool | None:
        """Whether the cell has ended."""
        return True if (cell.variant.name, cell.seed) in self.trained else None

    def read(self, cell: Cell, unit: str) -> RunResult:
        """The result of a cell that has ended."""
        assert self.outcome(cell), "only runs that have ended are judged"
        return run(cell.seed, self.losses[cell.variant.name, cell.seed])

    def carry_out(self, plan: ComparisonPlan) -> tuple[Comparison, Mock]:
        """Call the command again until it is not killed any more."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Grid, "run", lambda grid, *_, **__: self.run(grid))
            patch.setattr(Cell, "outcome", self.outcome_of)
            patch.setattr(ComparisonPlan, "write", Mock())
            patch.setattr(ComparisonPlan, "noise", lambda _: None)
            patch.setattr(plan_module, "with_text_intervals", lambda variants, *_: variants)
            patch.setattr(comparing, "entered", lambda _, comparison, __: comparison)
            for module in (results, plan_module):
                patch.setattr(module, "read_result", self.read)
            while True:
                self.left, watcher = next(self.kills, math.inf), Mock()
                done = comparing._carry_out(again(plan), watcher, True, math.inf, Path("none"))
                if done.comparison is not None:
                    return done.comparison, watcher

    @property
    def outcome_of(self) -> Any:
        """`outcome` as a method of cells."""
        return lambda cell: self.outcome(cell)


def again(plan: ComparisonPlan) -> ComparisonPlan:
    """The plan as a new call of the command makes it."""
    grid = copy.copy(plan.grid)
    grid.cells, grid.seeds = list(grid.cells), list(grid.seeds)
    return replace(plan, grid=grid)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> ComparisonPlan:
    """A base and two variants, with three to six seeds from 5, and the base again with three."""
    folder = tmp_path_factory.mktemp("looking")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write = writer(folder)
        files = [write("base"), write("one", model={"ffn": "glu"}), write("two", model={"norm": "layernorm"})]
        return make_plan(files, Settings(SeedRange(FIRST, MOST), delta=0.05), out=folder, runs=())


SEEDS = range(5, 5 + MOST)


def simulated(one: list[float | None], two: list[float | None], **others: Any) -> Simulated:
    """Losses of 1 for the base, and of the variants with these differences."""
    losses: dict[tuple[str, int], float | None] = {("base", seed): 1.0 for seed in range(5, 5 + MOST + FIRST)}
    for name, differences in (("one", one), ("two", two)):
        losses |= {(name, seed): None if each is None else 1 + each for seed, each in zip(SEEDS, differences, strict=True)}
    return Simulated(losses, **others)


def seeds_until_a_verdict(differences: list[float | None]) -> int:
    """The definition: the first number of seeds with a verdict or a failure, else the largest number."""
    for n in range(FIRST, MOST):
        if None in differences[:n]:
            return n
        (verdict,) = verdicts([[each for each in differences[:n] if each is not None]], 0.05, looking=True, family=2)
        if verdict.kind != "cannot tell":
            return n
    return MOST


@st.composite
def drawn(draw: st.DrawFn) -> list[float | None]:
    """Differences of a variant that is better, worse, equal or unclear, with a crash now and then."""
    mean, sd = draw(st.sampled_from([-1.0, 0.0, 0.3, 1.0])), draw(st.sampled_from([0.001, 0.1, 0.5]))
    found: list[float | None] = np.random.default_rng(draw(st.integers(0, 999))).normal(mean, sd, MOST).tolist()
    crash = draw(st.integers(0, 3 * MOST))
    return [None if index == crash else each for index, each in enumerate(found)]


@settings(deadline=None)
@given(drawn(), drawn(), st.lists(st.integers(0, 9), max_size=6), st.booleans())
def test_killing_and_calling_again_gives_the_same_runs_and_verdicts(
    plan: ComparisonPlan, one: list[float | None], two: list[float | None], kills: list[int], backwards: bool
) -> None:
    whole, killed = simulated(one, two), simulated(one, two, kills=iter(kills), backwards=backwards)
    expected, _ = whole.carry_out(plan)
    found, _ = killed.carry_out(plan)
    assert found == expected
    assert len(set(killed.trained)) == len(killed.trained), "no run is repeated"
    assert sorted(killed.trained) == sorted(whole.trained), "no run is missing, and none is superfluous"
    numbers = [len(variant.runs) for variant in found.variants]
    assert numbers[1:] == [seeds_until_a_verdict(one), seeds_until_a_verdict(two)]
    assert numbers[0] == max(numbers)
    assert found.settings.seeds == tuple(SEEDS[: numbers[0]])


def test_a_variant_with_a_verdict_gets_no_further_seeds_and_keeps_its_interval(plan: ComparisonPlan) -> None:
    """With another rule than ours: a verdict at a number of seeds that the first difference gives."""
    stages = []

    def rule(lists: list[list[float]], delta: float, *, looking: bool, family: int | None) -> list[Verdict]:
        found = verdicts(lists, delta, looking=looking, family=family)
        if not looking:  # the base against itself
            return found
        assert family == 2
        stages.append([len(each) for each in lists])
        return [
            replace(verdict, kind="cannot tell" if len(each) < each[0] else "worse")
            for verdict, each in zip(found, lists, strict=True)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "verdicts", rule)
        found, watcher = simulated([4.0] * MOST, [5.0] * MOST).carry_out(plan)
    assert [len(variant.runs) for variant in found.variants] == [5, 4, 5]
    assert [stage for stage, _ in itertools.groupby(stages)] == [[3, 3], [4, 4], [4, 5]]
    added = [(call.args[0], [cell.name for cell in call.args[1]]) for call in watcher.extended.call_args_list]
    assert added == [
        (["one", "two"], ["base, seed 8", "one, seed 8", "two, seed 8"]),
        (["two"], ["base, seed 9", "two, seed 9"]),
    ]


def test_variants_with_too_few_seeds_for_a_verdict_get_more(plan: ComparisonPlan) -> None:
    found = comparison(most_seeds=MOST, base=[run(5), run(6)], one=[run(5), run(6)], two=[run(5), run(6, None)])
    assert plan.undecided(found) == ["one"]
