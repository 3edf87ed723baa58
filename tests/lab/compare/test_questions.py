"""What a comparison asks the ledger, and when its gate is passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from minigpt.lab import compare as lab
from minigpt.lab.compare import PASSED, Compared, Settings
from minigpt.lab.compare.plan import make_plan
from minigpt.lab.compare.questions import entered, gate, not_in_ledger
from minigpt.lab.compare.record import Asked, Comparison, FailedVariant
from minigpt.lab.compare.tables import notes
from minigpt.lab.ledger import Ledger
from tests.conftest import Command
from tests.lab.compare.conftest import Write
from tests.lab.compare.results import comparison, run

LEDGER = Path("comparisons/ledger.jsonl")


def test_the_same_runs_are_asked_about_once_and_more_seeds_again(write: Write) -> None:
    whole = make_plan([write("base"), write("glu", model={"ffn": "glu"})], Settings(seeds=4))

    def compared(name: str, seeds: int, *, swapped: bool = False) -> Comparison:
        """The results are artificial; the plan knows which runs they are."""
        cells = [cell for cell in whole.grid.cells if cell.seed < 5 + seeds]
        plan = replace(whole, folder=Path("comparisons") / name, grid=Mock(cells=cells))
        losses = {
            "base": [run(5 + seed) for seed in range(seeds)],
            "glu": [run(5 + seed, 1.1**seed) for seed in range(seeds)],
        }
        judged = entered(plan, comparison(**dict(sorted(losses.items(), reverse=swapped))), LEDGER)
        plan.folder.mkdir(parents=True, exist_ok=True)
        plan.write(judged)
        return judged

    assert compared("a", 2).variants[1].difference.asked is None, "two seeds give no verdict"
    assert not LEDGER.exists()
    first = compared("a", 3)
    (entry,) = Ledger.read(LEDGER).entries
    assert (entry.comparison, entry.base, entry.variant, entry.seeds) == ("a", "base", "glu", 3)
    difference = first.variants[1].difference
    assert (entry.mean, entry.p, entry.kind) == (difference.mean, difference.p, difference.kind)
    assert difference.asked == Asked(number=1, p=entry.p, level=entry.level, survives=entry.survives)
    for name, swapped in (("a", False), ("b", False), ("c", True)):
        assert compared(name, 3, swapped=swapped).variants[1].difference.asked == difference.asked
    assert compared("a", 4).variants[1].difference.asked.number == 2
    assert [entry.seeds for entry in Ledger.read(LEDGER).entries] == [3, 4]

    assert not_in_ledger(LEDGER, Ledger.read(LEDGER)) == []
    LEDGER.write_text("".join(LEDGER.read_text().splitlines(keepends=True)[:-1]))
    (line,) = not_in_ledger(LEDGER, Ledger.read(LEDGER))
    assert line.startswith("comparisons/a: question 2 (glu) is not in the ledger")


def judged(survives: bool = True, **variants: list[float] | None) -> Comparison:
    """A comparison with these differences, each with an answer of the ledger; None is a crashed run."""
    base = [run(seed) for seed in range(3)]
    others = {
        name: [run(seed, None if each is None else 1 + each[seed]) for seed in range(3)] for name, each in variants.items()
    }
    found = comparison(base=base, **others)
    asked = Asked(number=7, p=0.004, level=0.01 if survives else 0.001, survives=survives)
    answered = [
        each.model_copy(update={"difference": each.difference and each.difference.model_copy(update={"asked": asked})})
        for each in found.variants
    ]
    return found.model_copy(update={"variants": tuple(answered)})


BETTER, WORSE, UNSURE = [-0.2, -0.21, -0.2], [0.2, 0.21, 0.2], [-0.2, 0.3, 0.0]


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        (lambda: judged(a=BETTER), PASSED),
        (lambda: judged(a=BETTER, b=BETTER), PASSED),
        (
            lambda: judged(False, a=BETTER),
            "a is better, but does not survive the ledger (question 7: p 0.004, allowed 0.001)",
        ),
        (lambda: judged(a=WORSE), "a: worse"),
        (lambda: judged(a=BETTER, b=UNSURE), "b: cannot tell at 3 seeds; "),
        (lambda: judged(a=BETTER, b=None), "b: crashed"),
        (
            lambda: judged(a=BETTER).model_copy(update={"failed": (FailedVariant(name="c", source="c", message="m"),)}),
            "c: crashed",
        ),
    ],
)
def test_the_gate_is_passed_if_every_variant_is_better_and_survives(found: Callable[[], Comparison], answer: str) -> None:
    assert gate(found()).startswith(answer)


def test_the_notes_say_which_differences_survive() -> None:
    about_ledger = [note for note in notes(judged(False, a=BETTER, b=UNSURE)) if "ledger" in note]
    assert about_ledger == ["a: better; it does not survive the ledger (question 7: p 0.004, allowed 0.001)"]


def test_a_gate_that_is_not_passed_exits_with_one(minigpt: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def outcome(found: Comparison) -> tuple[int, str]:
        found = found.model_copy(update={"gate": gate(found)})
        plan = Mock(folder=tmp_path)
        monkeypatch.setattr(lab, "compare", lambda *_, **__: Compared(plan, found))
        code, _, err = minigpt("compare", "base.json", "a.json", "--gate")
        return code, err

    assert outcome(judged(a=BETTER)) == (0, "")
    assert outcome(judged(a=WORSE)) == (1, "--gate is not passed: a: worse\n")
    for words, message in ((["a.json", "--plan"], "--gate needs the verdicts"), ([], "--gate needs at least one variant")):
        code, _, err = minigpt("compare", "base.json", *words, "--gate")
        assert code == 2
        assert err.startswith(f"error: {message}")
        assert len(err.splitlines()) == 1


def test_a_damaged_ledger_is_reported_before_anything_is_trained(minigpt: Command, write: Write) -> None:
    files = [write("base"), write("glu", model={"ffn": "glu"})]
    LEDGER.parent.mkdir()
    LEDGER.write_text("{}\n")
    code, _, err = minigpt("compare", *files)
    assert code == 2
    assert err.startswith("error: comparisons/ledger.jsonl, line 1 is damaged: ")
    assert minigpt("ledger")[0] == 2
    LEDGER.unlink()
    assert "0 questions, 0 survive; the next one needs p ≤ 0.017" in minigpt("ledger")[1]
