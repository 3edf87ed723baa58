"""Tests of the sentences that say what a comparison found and what it did not show."""

from __future__ import annotations

from typing import Any

import pytest

from minigpt.lab.compare.conclusion import conclusion
from minigpt.lab.compare.record import Asked, Comparison, FailedVariant, TextInterval
from minigpt.lab.compare.tables import markdown_text
from minigpt.lab.compare.tuned import RecordedTuning, Trial
from minigpt.run.status import Status
from tests.lab.compare.results import comparison, run


def compared(seeds: int = 3, **variants: list[float] | None) -> Comparison:
    """A base with losses of 1, and variants with these differences; None is a failed run."""
    base = [run(seed) for seed in range(seeds)]
    others = {
        name: [run(seed, None if each is None else 1 + each[seed]) for seed in range(seeds)]
        for name, each in variants.items()
    }
    return comparison(base=base, **others)


def tuning(number: int, **others: Any) -> RecordedTuning:
    trials = [Trial(values={"lr": 0.1 * each}, seed=9, outcome=Status.FINISHED, loss=1.0) for each in range(number)]
    return RecordedTuning(share=1, written={"lr": 0.1}, chosen={"lr": 0.2}, trials=tuple(trials), **others)


def changed(found: Comparison, **changes: Any) -> Comparison:
    """The comparison in which every variant, and the difference of each, has these values."""
    variants = []
    for variant in found.variants:
        ours = {key: value for key, value in changes.items() if key in type(variant).model_fields}
        theirs = {key: value for key, value in changes.items() if key not in ours}
        if variant.difference is not None:
            ours["difference"] = variant.difference.model_copy(update=theirs)
        variants.append(variant.model_copy(update=ours))
    return found.model_copy(update={"variants": tuple(variants)})


BASIS = "3 seeds, not tuned), on this text and size"


@pytest.mark.parametrize(
    ("differences", "sentence"),
    [
        (
            [-0.2, -0.21, -0.22],
            "new is better than base by 0.2100 nats per token (95 % interval -0.2348 to -0.1852, " + BASIS,
        ),
        ([0.2, 0.21, 0.22], "new is worse than base by 0.2100 nats per token (95 % interval +0.1852 to +0.2348, " + BASIS),
        (
            [0.002, -0.001, 0.0],
            "new is equivalent to base within 0.01 nats per token (difference +0.0003, 95 % interval -0.0035 to +0.0047, "
            + BASIS,
        ),
        (
            [0.1, -0.1, 0.06],
            "whether new is better or worse than base is not known (difference +0.0200 nats per token, 95 % interval "
            "-0.3360 to +0.2829, " + BASIS,
        ),
        (None, "new has no verdict: crashed"),
    ],
)
def test_each_verdict_is_a_sentence_with_its_numbers(differences: list[float] | None, sentence: str) -> None:
    first = conclusion(compared(new=differences, other=[-0.1, -0.1, -0.11]))[0]
    if differences is None:
        assert first.startswith(sentence)
    else:
        assert conclusion(compared(new=differences))[0] == sentence
        assert ", joint for 2 variants, 3 seeds, not tuned)" in first


def test_of_many_variants_one_sentence_says_how_many_are_what() -> None:
    better, unclear = [-0.2, -0.21, -0.22], [0.1, -0.1, 0.0]
    found = compared(a=better, b=unclear, c=better, d=None)
    found = found.model_copy(update={"failed": (FailedVariant(name="e", source="e.json", message="boom"),)})
    assert conclusion(found)[0] == (
        "of 5 variants compared with base: 2 better (a, c); 1 cannot tell (b); 2 no verdict (d, e) (3 seeds, not tuned), on "
        "this text and size"
    )


@pytest.mark.parametrize(
    ("changes", "words", "absent"),
    [
        ({}, "that it holds beyond one text and one budget (1 training tokens)", "equal"),
        ({}, "that it holds with settings that are tuned for each variant (none was)", "edge"),
        ({"tuning": tuning(5)}, "that it holds with other settings than lr tuned too", "none was"),
        (
            {"tuning": tuning(5, edges={"lr": "lowest"})},
            "the best lr of base, new, which may lie beyond the values",
            "none was",
        ),
        ({"caution": "odd"}, "new: its differences look like those that give false verdicts", "ledger"),
        (
            {"asked": Asked(number=2, p=0.02, level=0.01, survives=False)},
            "new: the verdict does not survive the ledger (question 2: p 0.02, allowed 0.01)",
            "caution",
        ),
        (
            {"text_interval": TextInterval(kind="documents", bounds=(-0.1, 0.1), blocks=(0.0,))},
            "new: another text of the same kind could show otherwise",
            "caution",
        ),
    ],
)
def test_what_was_not_shown_follows_from_the_record(changes: dict[str, Any], words: str, absent: str) -> None:
    last = conclusion(changed(compared(new=[-0.2, -0.21, -0.22]), **changes))[-1]
    assert last.startswith("not shown: ")
    assert words in last
    assert absent not in last


def test_unequal_budgets_and_the_number_of_trials_are_named() -> None:
    found = changed(compared(new=[-0.2, -0.21, -0.22]), tuning=tuning(5))
    base, variant = found.variants
    variant = variant.model_copy(update={"tokens": 2, "training_flops": 3, "tuning": tuning(7)})
    found = found.model_copy(update={"variants": (base, variant)})
    first, last = conclusion(found)
    assert "3 seeds, tuned with 5 to 7 trials each)" in first
    assert "that it holds at equal training tokens (new 2.00× those of base)" in last
    assert "that it holds at equal training FLOPs (new 3.00× those of base)" in last
    assert markdown_text(found).startswith("new is better than base by")


def test_without_a_difference_there_is_no_conclusion() -> None:
    assert conclusion(compared()) == []
    assert conclusion(compared(new=None)) == []
