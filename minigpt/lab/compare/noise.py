"""The noise floor: how much runs of one experiment differ by their seeds alone, and what a number of seeds can find."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from minigpt.errors import RunError, count
from minigpt.experiment import Experiment
from minigpt.lab.compare.record import Comparison, Difference, NoiseFloor, RunResult, VariantResult
from minigpt.lab.compare.results import (
    Judgement,
    difference_of,
    failed_seeds,
    judge_runs,
    mean_loss,
    result_of,
    sd_of_loss,
)
from minigpt.lab.compare.seeds import listed
from minigpt.lab.compare.variants import Unit
from minigpt.lab.statistics import ALPHA, FEWEST, level_of_last_look, power_of_equivalence, smallest_difference
from minigpt.numbers import as_typed, shown_difference, shown_interval
from minigpt.run import RunFolder
from minigpt.run.identity import settings_of

AGAIN = "base again"
_GUESS = " (an upper guess)"
_HARDLY = 0.2
"""Equivalence that is shown less often than this can hardly be shown."""


# --------------------------------------------------------------------------------------------- the base against itself


def against_itself(base: VariantResult, runs: Sequence[RunResult], delta: float) -> VariantResult:
    """The base with further seeds as a separate variant, compared with as many of the base's first runs.

    Pairs have the same place in both groups, and not the same seed. So nothing cancels within a pair, and the interval is
    wider than that of a variant whose runs resemble those of the base.
    """
    firsts = base.runs[: len(runs)]
    paired = [run.model_copy(update={"seed": first.seed}) for run, first in zip(runs, firsts, strict=True)]
    failed = failed_seeds(runs)
    judgement = Judgement(failed) if failed else judge_runs(firsts, [paired], delta)[0]
    return base.model_copy(
        update={
            "name": f"{AGAIN} (seed{'s' * (len(runs) > 1)} {listed([run.seed for run in runs])})",
            "mean": mean_loss(runs),
            "sd": sd_of_loss(runs),
            "verdict": judgement.words,
            "difference": None if judgement.verdict is None else difference_of(judgement.verdict),
            "runs": tuple(runs),
        }
    )


# ----------------------------------------------------------------------------------------------- what seeds can find


def measured_noise(
    variants: Sequence[VariantResult], seeds: int, delta: float, *, looking: bool = False
) -> NoiseFloor | None:
    """From the differences of these variants to the base; None if too few runs have finished."""
    differences = [variant.difference for variant in variants if variant.difference is not None]
    family = max((difference.family for difference in differences), default=1)
    source = "from the spread of these runs" + _GUESS * _is_of_base(variants)
    return _floor(_pooled(differences), source, seeds, delta, family, looking)


def expected_noise(
    base: Experiment,
    folder: Path,
    runs: Sequence[RunFolder],
    *,
    unit: Unit,
    seeds: int,
    delta: float,
    family: int,
    looking: bool = False,
) -> NoiseFloor | None:
    """From variants in earlier comparisons with this base, else from the base against itself, else from runs of the base.

    Runs of the base say nothing about pairs of the same seed. Without any correlation in a pair, the spread of differences
    is that of the losses times √2, and pairing makes it smaller as a rule. So this is an upper guess.

    Args:
        base: The base.
        folder: The folder of comparisons.
        runs: Finished runs of the base with different seeds.
        unit: The unit of the losses.
        seeds: The number of seeds that is asked about.
        delta: Smaller differences count as equivalent.
        family: Number of variants in the correction.
        looking: Whether this is the largest number, and seeds are added one at a time.

    Returns:
        What the seeds can find; None without three differences or runs.
    """
    found = _earlier(base, folder, unit)
    for is_of_base in (False, True):
        places = [place for place, variants in found if _is_of_base(variants) == is_of_base]
        each = [variant.difference for place, variants in found if place in places for variant in variants]
        sd = _pooled([difference for difference in each if difference is not None])
        if sd is not None:
            source = f"from the differences in {', '.join(map(str, places))}" + _GUESS * is_of_base
            return _floor(sd, source, seeds, delta, family, looking)
    losses = [loss for run in runs if (loss := result_of(run, 0, unit).loss) is not None]
    sd = math.sqrt(2) * statistics.stdev(losses) if len(losses) >= FEWEST else None
    source = f"from √2 times the spread of {count(len(losses), 'earlier run')} of the base{_GUESS}"
    return _floor(sd, source, seeds, delta, family, looking)


def _earlier(base: Experiment, folder: Path, unit: Unit) -> list[tuple[Path, tuple[VariantResult, ...]]]:
    """The variants in earlier comparisons whose base has the same settings, with the folders of these comparisons."""

    def key(document: dict[str, JsonValue]) -> JsonValue:
        return {**settings_of({**document, "seed": 0}), "data": document.get("data")}

    found = []
    for file in sorted(folder.glob("*/comparison.json")):
        with contextlib.suppress(RunError):  # a damaged comparison is not used, and does not stop this one
            earlier = Comparison.read(file)
            if earlier.settings.unit == unit and key(earlier.base.experiment) == key(base.to_json()):
                found.append((file.parent, earlier.variants[1:]))
    return found


def _is_of_base(variants: Sequence[VariantResult]) -> bool:
    """Whether these are the base's second group of seeds."""
    return any(variant.name.startswith(AGAIN) for variant in variants)


def _pooled(differences: Sequence[Difference]) -> float | None:
    """The standard deviation of a difference, pooled over variants with at least three seeds; None if there is no spread."""
    known = [(each.n - 1, each.sd) for each in differences if each.sd is not None and each.n >= FEWEST]
    freedom = sum(n for n, _ in known)
    return math.sqrt(sum(n * sd * sd for n, sd in known) / freedom) or None if freedom else None


def _floor(sd: float | None, source: str, seeds: int, delta: float, family: int, looking: bool) -> NoiseFloor | None:
    """What the seeds can find; None if the spread is unknown, or there are too few seeds for an interval."""
    if seeds < FEWEST:
        return None
    alpha = level_of_last_look(seeds, ALPHA / family) if looking else ALPHA / family
    if sd is None or alpha == 0:
        return None
    return NoiseFloor(
        sd=sd,
        source=source,
        seeds=seeds,
        smallest=smallest_difference(seeds, sd, alpha=alpha),
        power_of_equivalence=power_of_equivalence(seeds, 0.0, sd, delta, alpha),
    )


# ----------------------------------------------------------------------------------------------------------- in words


def in_words(noise: NoiseFloor, delta: float, *, looking: bool) -> str:
    """What a number of seeds can find, in one line."""
    seeds = f"{count(noise.seeds, 'seed')}, added one at a time," if looking else count(noise.seeds, "seed")
    words = f"{seeds} find differences of about {noise.smallest:.2g} or more (4 times in 5), {noise.source}"
    if noise.power_of_equivalence < _HARDLY:
        words += f"; equivalence within {as_typed(delta)} can hardly be shown"
    return words


def noise_notes(comparison: Comparison) -> list[str]:
    """Notes on what chance does: the base against itself, and what the seeds can find."""
    delta, again = comparison.settings.delta, comparison.base_again
    lines = []
    if again is not None:
        lines.append(f"{again.name}: {_shown(again, delta)}")
    if comparison.noise is not None:
        lines.append(in_words(comparison.noise, delta, looking=comparison.settings.looking))
    return lines


def _shown(again: VariantResult, delta: float) -> str:
    difference = again.difference
    if difference is None:
        return again.verdict
    words = shown_difference(difference.mean, delta)
    if difference.has_interval:
        words += f", 95 % {shown_interval(difference.interval, delta)}"
    return words + (", by chance" if difference.kind in ("better", "worse") else "")
