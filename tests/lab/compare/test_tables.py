"""The tables say what the numbers say, in the digits that are shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from minigpt.lab.compare.results import Result, VariantResult, family_size
from minigpt.lab.compare.tables import basis, unequal, verdict_table
from minigpt.lab.statistics import verdicts
from minigpt.run.status import Status


def variant_results(*differences: list[float] | None) -> list[VariantResult]:
    """The base, and variants with these differences; None is one that failed."""
    answers = iter(verdicts([each for each in differences if each is not None], 0.01))
    parts: Any = SimpleNamespace(name="base"), SimpleNamespace(), tuple(SimpleNamespace(loss=1.0) for _ in range(3))
    found = [VariantResult(*parts)]
    for each in differences:
        verdict = None if each is None else next(answers)
        found.append(VariantResult(*parts, verdict=verdict, why="crashed" if each is None else ""))
    return found


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([3.0e-5, 3.1e-5, 3.2e-5], "worse"),
        ([-1.0e-5, -1.01e-5, -1.02e-5], "better"),
        ([-1.0e-5, 1.0e-5, 0.9e-5], "equivalent within 0.01"),
        ([0.0097, 0.0098, 0.0099], "worse"),
    ],
)
def test_digits_are_as_many_as_the_verdict_needs(differences: list[float], words: str) -> None:
    *_, row = verdict_table(variant_results(differences), "nats").rows
    low, high = (float(bound) for bound in row[3].split(" to "))
    assert (low > 0) == (words == "worse")
    assert (high < 0) == (words == "better")
    assert row[5] == words


def test_the_number_that_is_corrected_for_stands_in_one_place() -> None:
    results = variant_results([0.1, 0.2, 0.3], None, [0.0, 0.1, -0.1], None)
    assert family_size(results) == 2
    assert {result.verdict.family for result in results if result.verdict is not None} == {2}
    assert verdict_table(results, "nats").columns[3] == "95 % interval, all 2 together"
    assert "hold for all 2 variants with a verdict together" in basis(results)
    assert verdict_table(variant_results([0.1, 0.2, 0.3], None), "nats").columns[3] == "95 % interval"
    assert "interval" not in basis(variant_results(None))


def test_parts_that_were_edited_between_runs_are_named() -> None:
    norm, ffn = ("norm/mine", "1"), ("ffn/glu", "3")
    for edited, notes in ((("norm/mine", "1"), []), (("norm/mine", "2"), ["norm/mine"])):
        runs = [
            Result(5, Status.FINISHED, "a", parts=(norm,), others=0.0),
            Result(5, Status.FINISHED, "b", parts=(edited, ffn), others=0.0),
        ]
        results: Any = [VariantResult(SimpleNamespace(name=run.run, adjusted=()), SimpleNamespace(), (run,)) for run in runs]  # type: ignore[arg-type]
        assert unequal(results) == [f"the source of {part} is not the same in all runs" for part in notes]


def test_without_a_verdict_there_is_neither_interval_nor_p() -> None:
    """Two seeds with one difference have an interval that leaves 0 out, and a p-value of 0."""
    results = variant_results([0.1, 0.1])
    *_, row = verdict_table(results, "nats").rows
    assert row[2:5] == ("+0.1000", "–", "–")
    assert family_size(results) == 0
