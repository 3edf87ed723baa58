"""Tests that tables agree with the numbers in the digits that they show."""

from __future__ import annotations

from pathlib import Path

import pytest

from minigpt.lab.compare.record import Comparison, FailedVariant
from minigpt.lab.compare.tables import basis, cautions, cost_table, looking_notes, markdown_text, unequal, verdict_table
from tests.lab.compare.results import comparison, run


def compared(*differences: list[float] | None) -> Comparison:
    """The base with losses of 1, and variants with these differences; None is a failed run."""
    seeds = len(next((each for each in differences if each is not None), [0.0]))
    base = [run(seed) for seed in range(seeds)]
    variants = {
        f"variant-{number}": [run(seed, None if each is None else 1 + each[seed]) for seed in range(seeds)]
        for number, each in enumerate(differences)
    }
    return comparison(base=base, **variants)


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([3.0e-5, 3.1e-5, 3.2e-5], "worse"),
        ([-1.0e-5, -1.01e-5, -1.02e-5], "better"),
        ([-1.0e-5, 1.0e-5, 0.9e-5], "equivalent within 0.01"),
        ([0.0097, 0.0098, 0.0099], "worse"),
    ],
)
def test_as_many_digits_are_shown_as_the_verdict_needs(differences: list[float], words: str) -> None:
    *_, row = verdict_table(compared(differences)).rows
    low, high = (float(bound) for bound in row[3].split(" to "))
    assert (low > 0) == (words == "worse")
    assert (high < 0) == (words == "better")
    assert row[5] == words


def test_a_variant_without_a_verdict_has_a_range_of_seeds_and_an_unusual_one_a_caution() -> None:
    found = compared([0.01, 0.04, -0.02, 0.03, 0.0], [0.1, 0.11, 0.1, 0.12, 5.0])
    first, second = (variant.difference for variant in found.variants[1:])
    assert first is not None
    assert second is not None
    assert first.seeds_needed is not None
    likely, safe = first.seeds_needed
    assert found.variants[1].verdict == f"cannot tell at 5 seeds; {likely} to {safe} would probably be enough"
    assert second.outliers == (4,)
    assert f"variant-1: {second.caution}" in markdown_text(found)
    assert cautions(found) == [f"variant-1: {second.caution}"]


def test_the_number_of_variants_in_the_correction_is_the_same_everywhere() -> None:
    found = compared([0.1, 0.2, 0.3], None, [0.0, 0.1, -0.1], None)
    assert found.family == 2
    assert {variant.difference.family for variant in found.variants if variant.difference is not None} == {2}
    assert verdict_table(found).columns[3] == "95 % interval, joint for 2 variants"
    assert "corrected for 2 variants (Bonferroni): all intervals hold jointly" in basis(found)
    assert verdict_table(compared([0.1, 0.2, 0.3], None)).columns[3] == "95 % interval"
    assert "interval" not in basis(compared(None))


def test_the_notes_say_what_holds_if_one_looks_more_than_once() -> None:
    clear, unclear = [0.1, 0.2, 0.15], [0.1, -0.2, 0.3]
    warning = (
        "adding seeds after looking at this result makes false verdicts more frequent than 5 %; --seeds 3..12 adds them until "
        "there is a verdict, with intervals that hold however often one looks"
    )
    for differences, expected in (([clear], []), ([unclear], [warning]), ([clear, unclear], [warning]), ([None], [])):
        assert looking_notes(compared(*differences)) == expected
    base, one, two = [run(seed) for seed in range(5)], [run(seed, 2.0) for seed in range(3)], [run(0, 1.2), run(1, None)]
    found = comparison(most_seeds=9, base=base, one=one, two=two, three=base)
    assert looking_notes(found) == [
        "seeds were added one at a time while a verdict was missing (one 3, three 5): the intervals hold however often one looks"
    ]
    assert "paired over 2 to 5 seeds; intervals and p-values are corrected for 3 variants" in basis(found)


def test_a_verdict_stays_if_the_base_fails_with_a_later_seed() -> None:
    base = [*(run(seed) for seed in range(5)), run(5, None)]
    one, two = [run(seed, 2.0) for seed in range(5)], [run(seed, 1.0 + seed) for seed in range(6)]
    found = comparison(most_seeds=9, base=base, one=one, two=two)
    assert [variant.verdict for variant in found.variants[1:]] == [
        "worse",
        "no verdict, because of the base: crashed with seed 5",
    ]


def test_parts_that_were_edited_between_runs_are_named() -> None:
    parts = {"norm/mine": "1"}
    for edited, notes in (({"norm/mine": "1"}, []), ({"norm/mine": "2"}, ["norm/mine"])):
        found = comparison(base=[run(parts=parts)], other=[run(parts={**edited, "ffn/glu": "3"})])
        assert unequal(found) == [f"the source of {part} differs between the runs" for part in notes]


def test_any_error_message_of_a_plugin_can_be_written_and_read(tmp_path: Path) -> None:
    message = "half a character \ud800, an escape \x1b[2J and " + "much " * 50_000
    found = comparison(base=[run(message=message)], other=[run()])
    failed = FailedVariant(name="odd", source="odd.json", message=message)
    found = found.model_copy(update={"failed": (failed,)})
    found.write(tmp_path / "comparison.json")
    read = Comparison.read(tmp_path / "comparison.json")
    assert read == found
    for kept in (read.failed[0].message, read.base.runs[0].message):
        assert kept.startswith("half a character \\ud800, an escape \\u001b[2J and much")
        assert len(kept) == 1 << 16


def test_numbers_that_are_not_finite_or_absurd_are_left_out_of_the_record() -> None:
    found = comparison(
        base=[run(seed, 1e100) for seed in range(3)], other=[run(seed, -(10.0 ** (90 + seed))) for seed in range(3)]
    )
    assert found.variants[1].difference is not None
    huge = comparison(base=[run(1, 1e100), run(2, -1e100)], other=[run(1, -1e100), run(2, 1e100)])
    assert huge.base.sd is None
    assert huge.variants[1].difference is not None
    assert huge.variants[1].difference.sd is None


def test_without_a_verdict_there_is_neither_interval_nor_p() -> None:
    """Two seeds with equal differences would have an interval without 0, and a p-value of 0."""
    found = compared([0.5, 0.5])
    *_, row = verdict_table(found).rows
    assert row[2:5] == ("+0.5000", "–", "–")
    assert found.family == 0


def test_the_full_tables_have_the_columns_of_the_short_ones_and_more() -> None:
    found = compared([0.1, 0.2, 0.3])
    for table in (verdict_table, cost_table):
        short, full = table(found), table(found, full=True)
        kept = [index for index, column in enumerate(full.columns) if column in short.columns]
        assert len(kept) == len(short.columns) < len(full.columns)
        for row, longer in zip(short.rows, full.rows, strict=True):
            assert row == tuple(longer[index] for index in kept)
