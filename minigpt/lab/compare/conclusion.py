"""What a comparison found and what it did not show, in sentences that can be quoted."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt.errors import count, listing
from minigpt.lab.compare.matching import TOLERANCE
from minigpt.lab.compare.noise import AGAIN
from minigpt.lab.compare.record import Comparison, Difference, VariantResult
from minigpt.lab.compare.variants import UNITS
from minigpt.numbers import as_typed, shown_difference, shown_interval, shown_whole

_FEW = 4
"""Up to this number, each variant has its own sentence."""


def conclusion(comparison: Comparison) -> list[str]:
    """What was found, and last what was not shown; empty if nothing was compared."""
    sentences = found(comparison)
    return [*sentences, not_shown(comparison)] if sentences else []


def found(comparison: Comparison) -> list[str]:
    """What was found: one sentence for each variant if they are few, else one for all; empty if nothing was compared."""
    compared = [*comparison.variants[1:], *comparison.failed]
    if not any(isinstance(each, VariantResult) and each.difference for each in compared):
        return []
    if len(compared) <= _FEW:
        sentences = [_sentence(variant, comparison) for variant in comparison.variants[1:]]
        return sentences + [
            f"{failed.name} was not compared with {comparison.base.name}: crashed" for failed in comparison.failed
        ]
    names: dict[str, list[str]] = {}
    for variant in comparison.variants[1:]:
        kind = variant.difference.kind if variant.difference is not None else "no verdict"
        names.setdefault(kind, []).append(variant.name)
    for failed in comparison.failed:
        names.setdefault("no verdict", []).append(failed.name)
    delta = as_typed(comparison.settings.delta)
    parts = [
        f"{len(each)} {kind}{f' within {delta}' * (kind == 'equivalent')} ({', '.join(each)})"
        for kind, each in names.items()
    ]
    differences = [variant.difference for variant in comparison.variants if variant.difference is not None]
    what = f"{'; '.join(parts)} ({_basis(differences, comparison)})"
    return [f"of {len(compared)} variants compared with {comparison.base.name}: {what}, on this text and size"]


def _sentence(variant: VariantResult, comparison: Comparison) -> str:
    base, delta, difference = comparison.base.name, comparison.settings.delta, variant.difference
    if difference is None:
        return f"{variant.name} has no verdict: {variant.verdict}"
    unit = UNITS[comparison.settings.unit]
    size, numbers = shown_difference(abs(difference.mean), delta).lstrip("+"), [_basis([difference], comparison)]
    if difference.has_interval:
        joint = f", joint for {difference.family} variants" if difference.family > 1 else ""
        numbers.insert(0, f"95 % interval {shown_interval(difference.interval, delta)}{joint}")
    is_chance = variant.name.startswith(AGAIN)
    match difference.kind:
        case "better" | "worse":
            words = f"{variant.name} is {difference.kind} than {base} by {size} {unit}{', by chance' * is_chance}"
        case "equivalent":
            words = f"{variant.name} is equivalent to {base} within {as_typed(delta)} {unit}"
            numbers.insert(0, f"difference {shown_difference(difference.mean, delta)}")
        case _:
            words = f"whether {variant.name} is better or worse than {base} is not known"
            numbers.insert(0, f"difference {shown_difference(difference.mean, delta)} {unit}")
    return f"{words} ({', '.join(numbers)}), on this text and size"


def _basis(differences: Sequence[Difference], comparison: Comparison) -> str:
    """The number of seeds, and of the trials that each variant had: `5 seeds, tuned with 5 trials each`."""
    numbers = sorted(difference.n for difference in differences)
    seeds = (f"{numbers[0]} to " if numbers[0] < numbers[-1] else "") + count(numbers[-1], "seed")
    if any(difference.looking for difference in differences):
        seeds += " added one at a time"
    trials = sorted(variant.tuning.tried for variant in comparison.variants if variant.tuning is not None)
    if not trials:
        return f"{seeds}, not tuned"
    most = (f"{trials[0]} to " if trials[0] < trials[-1] else "") + count(trials[-1], "trial")
    return f"{seeds}, tuned with {most} each"


def not_shown(comparison: Comparison) -> str:
    """What the comparison does not show, as one sentence."""
    sizes = {variant.cost.total for variant in comparison.variants if variant.cost.total is not None}
    size = (
        ""
        if not sizes
        else f", one size ({' to '.join(shown_whole(each) for each in sorted({min(sizes), max(sizes)}))} parameters)"
    )
    budget = f"{shown_whole(comparison.base.tokens)} training tokens"
    limits = [
        f"that it holds beyond one text{size} and one budget ({budget})",
        *_unequal(comparison),
        *limits_of_tuning(comparison),
    ]
    for variant in comparison.variants[1:]:
        if variant.difference is not None:
            limits += [f"{variant.name}: {doubt}" for doubt in _doubts(variant.difference)]
    return f"not shown: {'; '.join(limits)}"


def _unequal(comparison: Comparison) -> list[str]:
    """Budgets that are not equal, among tokens and operations."""
    base, others = comparison.base, comparison.variants[1:]
    limits = []
    for words, budgets in (
        ("training tokens", [(each.name, each.tokens, base.tokens) for each in others]),
        ("training FLOPs", [(each.name, each.training_flops, base.training_flops) for each in others]),
    ):
        ratios = [(name, ours / theirs) for name, ours, theirs in budgets if ours is not None and theirs]
        differing = [f"{name} {ratio:.2f}×" for name, ratio in ratios if abs(ratio - 1) > TOLERANCE]
        if differing:
            limits.append(f"that it holds at equal {words} ({', '.join(differing)} those of {base.name})")
    return limits


def limits_of_tuning(comparison: Comparison) -> list[str]:
    """What was not tuned, or not to the end."""
    tuned = [(variant.name, variant.tuning) for variant in comparison.variants if variant.tuning is not None]
    if not tuned:
        return ["that it holds with settings that are tuned for each variant (none was)"]
    paths = list(dict.fromkeys(path for _, tuning in tuned for path in tuning.chosen))
    limits = [f"that it holds with other settings than {listing(paths)} tuned too"]
    for path in paths:
        if names := [name for name, tuning in tuned if path in tuning.edges]:
            limits.append(f"the best {path} of {', '.join(names)}, which may lie beyond the values that were tried")
    return limits


def _doubts(difference: Difference) -> list[str]:
    """Reasons to doubt one verdict, as the end of a sentence about its variant."""
    doubts = ["its differences look like those that give false verdicts (see its caution)"] if difference.caution else []
    text, is_difference = difference.text_interval, difference.kind in ("better", "worse")
    if is_difference and text is not None and text.contains_zero:
        doubts.append("another text of the same kind could show otherwise")
    if is_difference and difference.asked is not None and not difference.asked.survives:
        doubts.append(f"the verdict {difference.asked.in_words}")
    return doubts
