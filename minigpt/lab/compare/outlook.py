"""What a plan means, in words: how many runs, how long they take, and what they can find."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt.errors import count
from minigpt.lab.compare.grid import Cell
from minigpt.lab.compare.noise import in_words
from minigpt.lab.compare.plan import ComparisonPlan
from minigpt.lab.statistics import FEWEST
from minigpt.numbers import duration


def runs_in_words(plan: ComparisonPlan, to_train: Sequence[Cell]) -> str:
    """The variants, seeds and runs of a plan, and how many runs exist."""
    planned = len(plan.grid.cells) + len(plan.grid.again)
    runs = f"{count(planned, 'run')}, {planned - len(to_train)} exist already"
    return f"{count(len(plan.variants), 'variant')}, {plan.grid.planned}: {runs}"


def outlook(plan: ComparisonPlan, to_train: Sequence[Cell], *, is_judged: bool = True) -> list[str]:
    """The time that the missing runs take, and the smallest difference that the comparison would find; empty without any.

    Trials are not judged (`is_judged`), so they find no difference.
    """
    jobs, looking, most = plan.settings.jobs, bool(plan.grid.further), len(plan.grid.missing_runs(further=True))
    if not most:
        return []
    at_once = f", {jobs} at a time" if jobs > 1 else ""
    times = f"{count(len(to_train), 'run')} to train{at_once}{time_of(plan)}"
    if looking:
        times += f"; up to {most:,} if verdicts are missing: {_likely(plan.seconds(further=True))}"
    if plan.grid.planned.most < FEWEST or not is_judged:
        return [times]
    noise = plan.noise()
    if noise is None:
        return [times, "the smallest difference that can be found will be known from these runs"]
    return [times, in_words(noise, plan.settings.delta, looking=looking)]


def time_of(plan: ComparisonPlan) -> str:
    """The time of a plan's missing runs, as the end of a sentence; empty if none is missing."""
    return f": {_likely(plan.seconds())}" if plan.grid.missing_runs() else ""


def _likely(seconds: tuple[float, float, float]) -> str:
    estimate, low, high = map(duration, seconds)
    return f"about {estimate} ({low} to {high})"
