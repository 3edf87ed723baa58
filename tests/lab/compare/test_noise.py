"""Tests of the base against itself, and of what a number of seeds can find. Nothing is trained."""

from __future__ import annotations

import math
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigpt.lab.compare import noise as noise_module
from minigpt.lab.compare.noise import against_itself, in_words, measured_noise, noise_notes
from minigpt.lab.compare.plan import Settings, make_plan
from minigpt.lab.compare.record import Comparison, NoiseFloor
from minigpt.lab.compare.tables import csv_text, markdown_text, notes, verdict_table
from minigpt.lab.statistics import smallest_difference, verdicts
from minigpt.numbers import shown_interval
from tests.lab.compare.conftest import Write
from tests.lab.compare.results import comparison, run

BASE = [run(seed, loss) for seed, loss in zip((5, 6, 7), (1.0, 1.02, 1.01), strict=True)]
AGAIN = [run(seed, loss) for seed, loss in zip((8, 9, 10), (1.01, 1.02, 1.02), strict=True)]


def with_again(runs: list[Any], **variants: Any) -> Comparison:
    """A comparison with a second group of the base."""
    found = comparison(base=BASE, **variants)
    return found.model_copy(update={"base_again": against_itself(found.base, runs, 0.01)})


@pytest.mark.parametrize("n", [3, 5, 12])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_smallest_difference_is_found_four_times_in_five(n: int, alpha: float) -> None:
    """As often as in 5,000 simulated comparisons."""
    smallest = smallest_difference(n, 0.02, alpha=alpha)
    drawn = np.random.default_rng(n).normal(smallest, 0.02, (5000, n)).tolist()
    found = [verdict.kind == "worse" for verdict in verdicts(drawn, 1e-9, family=round(0.05 / alpha))]
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)
    assert smallest_difference(n, 0.2, alpha=alpha) == pytest.approx(10 * smallest, rel=1e-4)


def test_one_seed_finds_nothing_and_without_spread_everything_is_found() -> None:
    assert (smallest_difference(1, 0.1), smallest_difference(3, 0.0)) == (math.inf, 0.0)


def test_the_base_against_itself_is_paired_by_place_and_is_in_no_family() -> None:
    found = with_again(AGAIN, one=BASE, two=BASE)
    again = found.base_again
    assert again is not None
    assert again.difference is not None
    assert again.difference.mean == pytest.approx(statistics.fmean([0.01, 0.0, 0.01]))
    assert (again.difference.n, again.difference.family) == (3, 1)
    assert found.family == 2
    (alone,) = verdicts([[again - first for again, first in zip((1.01, 1.02, 1.02), (1.0, 1.02, 1.01), strict=True)]], 0.01)
    interval = shown_interval(alone.interval, 0.01)
    assert noise_notes(found) == [f"base again (seeds 8 to 10): +0.0067, 95 % {interval}"]
    assert "base again (seeds 8 to 10): +0.0067" in markdown_text(found)
    assert [line.split(",")[:2] for line in csv_text(found).splitlines()[-3:]] == [
        ["base again (seeds 8 to 10)", str(seed)] for seed in (8, 9, 10)
    ]
    assert len(verdict_table(found).rows) == 3, "it has a line, and no row of the table"


def test_a_difference_of_the_base_from_itself_is_called_chance() -> None:
    runs = [run(seed, first.loss + 0.5) for seed, first in zip((8, 9, 10), BASE, strict=True) if first.loss is not None]
    (line,) = noise_notes(with_again(runs))
    assert line.endswith(", by chance")


def test_a_failed_run_of_the_second_group_is_named_with_the_seed_that_it_had() -> None:
    found = with_again([AGAIN[0], run(9, None, message="boom"), AGAIN[2]])
    assert noise_notes(found) == ["base again (seeds 8 to 10): crashed with seed 9"]
    assert "base again (seeds 8 to 10), seed 9: boom" in notes(found)


def test_what_seeds_can_find_follows_from_all_differences() -> None:
    one = [run(each.seed, 1 + shift) for each, shift in zip(BASE, (0.0, 0.03, 0.01), strict=True)]
    two = [run(each.seed, 2 + shift) for each, shift in zip(BASE, (0.05, 0.0, 0.01), strict=True)]
    found = comparison(base=BASE, one=one, two=two, crashed=[run(each.seed, None) for each in BASE])
    sds = [variant.difference.sd for variant in found.variants if variant.difference is not None]
    floor = measured_noise(found.variants, 5, 0.01)
    assert floor is not None
    assert floor.sd == pytest.approx(math.sqrt(statistics.fmean([sd * sd for sd in sds if sd is not None])))
    assert floor.smallest == smallest_difference(5, floor.sd, alpha=0.05 / 2)
    assert (floor.seeds, floor.source) == (5, "from the spread of these runs")


@pytest.mark.parametrize(
    ("variants", "seeds"),
    [
        pytest.param({}, 3, id="no variant"),
        pytest.param({"one": [run(each.seed, None) for each in BASE]}, 3, id="no finished variant"),
        pytest.param({"one": BASE}, 3, id="no spread"),
        pytest.param({"one": [run(5), run(6, 1.5), run(7, 1.2)]}, 2, id="too few seeds for a verdict"),
    ],
)
def test_without_a_spread_nothing_is_claimed(variants: Any, seeds: int) -> None:
    assert measured_noise(comparison(base=BASE, **variants).variants, seeds, 0.01) is None


@pytest.mark.parametrize(
    ("power", "looking", "words"),
    [
        (0.7, False, ("3 seeds", "")),
        (0.1, False, ("3 seeds", "; equivalence within 0.01 can hardly be shown")),
        (0.7, True, ("3 seeds, added one at a time,", "")),
    ],
)
def test_what_seeds_can_find_is_one_line(power: float, looking: bool, words: tuple[str, str]) -> None:
    floor = NoiseFloor(sd=0.02, source="from X", seeds=3, smallest=0.0213, power_of_equivalence=power)
    line = in_words(floor, 0.01, looking=looking)
    assert line == f"{words[0]} find differences of about 0.021 or more (4 times in 5), from X{words[1]}"


def test_with_seeds_that_are_added_one_at_a_time_only_larger_differences_are_found() -> None:
    """As often as in 5,000 simulated comparisons, at the last look."""
    variants = comparison(base=BASE, one=[run(5, 1.5), run(6, 1.0), run(7, 1.2)]).variants
    fixed, looking = (measured_noise(variants, 12, 0.01, looking=each) for each in (False, True))
    assert fixed is not None
    assert looking is not None
    assert looking.smallest > 1.3 * fixed.smallest
    drawn = np.random.default_rng(0).normal(looking.smallest, looking.sd, (5000, 12)).tolist()
    found = [verdict.kind == "worse" for verdict in verdicts(drawn, 0.01, looking=True, family=1)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)
    many = [
        variants[0],
        variants[1].model_copy(update={"difference": variants[1].difference.model_copy(update={"family": 99})}),
    ]  # type: ignore[union-attr]
    assert measured_noise(many, 3, 0.01, looking=True) is None, "three seeds give no interval at all"


def test_before_training_earlier_comparisons_are_asked_and_then_earlier_runs(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write("base"), write("variant", model={"ffn": "glu"})]
    plan = make_plan(files, Settings(seeds=4, delta=1e-4))
    assert plan.noise() is None, "nothing is known yet"

    losses = [1.0, 1.03, 1.01]
    monkeypatch.setattr(type(plan.grid), "earlier", lambda *_: losses[: asked["runs"]])
    monkeypatch.setattr(noise_module, "result_of", lambda loss, *_: run(loss=loss))
    asked = {"runs": 2}
    assert plan.noise() is None, "two runs show no spread"
    asked["runs"] = 3
    floor = plan.noise()
    assert floor is not None
    assert floor.sd == pytest.approx(math.sqrt(2) * statistics.stdev(losses))
    assert floor.source == "from √2 times the spread of 3 earlier runs of the base (an upper guess)"
    assert floor.seeds == 4

    variant = [run(each.seed, 1 + shift) for each, shift in zip(BASE, (0.0, 0.002, 0.001), strict=True)]
    earlier = comparison(base=BASE, variant=variant)
    experiment = {**plan.variants[0].experiment.to_json(), "seed": 77}
    of_base = against_itself(earlier.base, AGAIN, 0.01)
    for folder, change, variants, source in (
        ("damaged", {}, (), None),
        ("other", {"model": {}}, earlier.variants[1:], None),
        ("text", {"data": "other"}, earlier.variants[1:], None),
        ("alone", {}, (of_base,), "comparisons/alone (an upper guess)"),
        ("same", {}, earlier.variants[1:], "comparisons/same"),
        ("too", {}, earlier.variants[1:], "comparisons/same, comparisons/too"),
    ):
        base = earlier.base.model_copy(update={"experiment": {**experiment, **change}})
        file = Path("comparisons", folder, "comparison.json")
        file.parent.mkdir(parents=True)
        earlier.model_copy(update={"variants": (base, *variants)}).write(file)
        if folder == "damaged":
            file.write_text("{}")
        floor = plan.noise()
        assert floor is not None
        if source is not None:
            measured = measured_noise(variants, 4, 1e-4)
            assert measured is not None
            assert (floor.source, floor.sd) == (f"from the differences in {source}", pytest.approx(measured.sd))
        else:
            assert "3 earlier runs" in floor.source


def test_the_record_keeps_the_second_group_and_the_noise_floor(tmp_path: Path) -> None:
    floor = NoiseFloor(sd=0.1, source="from X", seeds=3, smallest=0.5, power_of_equivalence=0.0)
    found = with_again(AGAIN).model_copy(update={"noise": floor}).seen_from(tmp_path)
    found.write(tmp_path / "comparison.json")
    assert Comparison.read(tmp_path / "comparison.json") == found
    assert {run.run for _, run in found.runs} == {Path(os.path.relpath("a", tmp_path)).as_posix()}


def test_a_base_without_variants_is_compared_with_itself(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan([write("base")], Settings(delta=0.05))
    assert [(cell.variant.name, cell.seed) for cell in plan.grid.missing()] == [("base", seed) for seed in range(5, 11)]
    assert all(cell.run.path.parent.name == "base" for cell in plan.grid.again)
    results = {each.seed: each for each in (*BASE, *AGAIN)}
    for module in ("results", "plan"):
        monkeypatch.setattr(f"minigpt.lab.compare.{module}.read_result", lambda cell, unit: results[cell.seed])
    found = plan.judge()
    base, again = found.variants
    assert (base.verdict, again.verdict) == ("the base", "equivalent within 0.05")
    assert again.name == "base again (seeds 8 to 10)"
    assert found.base_again is None
    assert found.noise is not None
    assert found.noise.source == "from the spread of these runs (an upper guess)"
    assert verdict_table(found).rows[1][0] == again.name
