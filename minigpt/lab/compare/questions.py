"""Enter the verdicts of a comparison into the ledger, and decide whether its gate is passed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from minigpt.errors import RunError
from minigpt.lab.compare.plan import ComparisonPlan
from minigpt.lab.compare.record import PASSED, Asked, Comparison, Difference
from minigpt.lab.ledger import Entry, Ledger, Question, ask
from minigpt.run.status import Status


def entered(plan: ComparisonPlan, comparison: Comparison, file: Path) -> Comparison:
    """The comparison with what the ledger says about each verdict, and with the state of its gate.

    Args:
        plan: The plan of the comparison.
        comparison: Its results.
        file: The ledger, to which verdicts on runs are added that it does not have.

    Raises:
        RunError: The ledger is damaged or in use.
        WriteError: The ledger cannot be written.
    """
    questions = {question.variant: question for question in _questions(plan, comparison, file)}
    ledger = ask(file, list(questions.values())) if questions else Ledger()
    variants = []
    for variant in comparison.variants:
        if variant.difference is not None and variant.name in questions:
            entry = ledger.find(questions[variant.name].key)
            assert entry is not None, "it was just added"
            difference = variant.difference.model_copy(update={"asked": _asked(entry)})
            variant = variant.model_copy(update={"difference": difference})
        variants.append(variant)
    judged = comparison.model_copy(update={"variants": tuple(variants)})
    return judged.model_copy(update={"gate": gate(judged)})


def gate(comparison: Comparison) -> str:
    """`passed` if every variant is better than the base and survives the ledger; otherwise why not."""
    for failed in comparison.failed:
        return f"{failed.name}: {Status.CRASHED}"
    for variant in comparison.variants[1:]:
        difference = variant.difference
        if difference is None or difference.kind != "better":
            return f"{variant.name}: {variant.verdict}"
        if difference.asked is None or not difference.asked.survives:
            reason = "is not in the ledger" if difference.asked is None else difference.asked.in_words
            return f"{variant.name} is better, but {reason}"
    return PASSED


def not_in_ledger(file: Path, ledger: Ledger) -> list[str]:
    """Verdicts of comparisons beside a ledger that it does not have, and comparisons that cannot be read; one per line."""
    lines = []
    for record in sorted([*file.parent.glob("*/comparison.json"), *file.parent.glob("*/*/comparison.json")]):
        try:
            comparison = Comparison.read(record)
        except RunError as error:
            lines.append(str(error))
            continue
        asked = {v.name: v.difference.asked for v in comparison.variants if v.difference is not None}
        lines += [
            f"{record.parent}: question {each.number} ({name}) is not in the ledger: lines were removed, or it is another's"
            for name, each in asked.items()
            if each is not None and each not in map(_asked, ledger.entries)
        ]
    return lines


def _questions(plan: ComparisonPlan, comparison: Comparison, file: Path) -> Iterator[Question]:
    """A question for each variant of the plan with a verdict. With too few seeds there is none, and nothing was asked."""
    keys = {variant.name: {c.seed: c.key for c in plan.grid.cells if c.variant is variant} for variant in plan.variants}
    base = comparison.base.name
    for variant in comparison.variants:
        if variant.difference is None or not variant.difference.has_interval or variant.name not in keys:
            continue
        pairs = [(keys[base][seed], key) for seed, key in keys[variant.name].items()]
        sides = sorted(sorted(side) for side in zip(*pairs, strict=True))  # it is the same question the other way round
        yield Question(
            comparison=_seen_from(file.parent, plan.folder),
            base=base,
            variant=variant.name,
            key=hashlib.sha256(repr(sides).encode()).hexdigest(),
            seeds=variant.difference.n,
            mean=variant.difference.mean,
            kind=variant.difference.kind,
            family=variant.difference.family,
            p=_single_p(variant.difference),
        )


def _single_p(difference: Difference) -> float:
    """The p-value without the correction for other variants, which multiplied it by their number; 1 if that gave 1."""
    return 1.0 if difference.p is None or difference.p == 1 else difference.p / difference.family


def _seen_from(folder: Path, other: Path) -> str:
    return other.relative_to(folder).as_posix() if other.is_relative_to(folder) else str(other)


def _asked(entry: Entry) -> Asked:
    return Asked(number=entry.number, p=entry.p, level=entry.level, survives=entry.survives)
