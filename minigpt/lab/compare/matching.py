"""Match the budgets and sizes of variants to the base's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minigpt.data import tokens_trained
from minigpt.errors import ExperimentError, MinigptError
from minigpt.experiment import MAX_COUNT, Experiment
from minigpt.lab.compare.variants import Budget, Size, Variant, setting_at

TOLERANCE = 0.01  # sizes that differ by less count as equal

_FEW = 128  # up to this many values, all are tried


def matched_budget(base: Variant, variant: Variant, budget: Budget, ratio: float = 1.0, known: str = "") -> Variant:
    """The variant with the number of updates that the base's budget allows.

    Args:
        base: The base; the cost of its training is the budget.
        variant: The variant whose max_iters, and with it its schedule, is changed.
        budget: The quantity that is made equal.
        ratio: Cost of the variant's update divided by the base's: operations for `flops`, seconds for `time`.
        known: The precision of the ratio, for the note about the adjustment.
    """
    training, given = variant.experiment.training, base.experiment.training.max_iters
    match budget:
        case "steps":
            updates = float(given)
        case "tokens":
            updates = training.max_iters * tokens_trained(base.experiment) / tokens_trained(variant.experiment)
        case "flops" | "time":
            updates = given / ratio
    rounded = max(1, min(round(updates), MAX_COUNT))
    how = f"(--budget {budget}{known and f'; {known}'})"
    if rounded != training.max_iters:
        note = f"training.max_iters {training.max_iters:,} → {rounded:,} {how}"
        return variant.with_training({"max_iters": rounded}, note)
    return variant.changed(variant.experiment, f"training.max_iters stays {rounded:,} {how}") if known else variant


def matched_size(
    base: int, variant: Variant, knobs: Sequence[str], size_of: Callable[[Experiment], int], what: Size
) -> Variant:
    """The variant with settings changed so that its size is within 1 % of the base's.

    Args:
        base: The size to match.
        variant: The variant that is adjusted.
        knobs: Paths of numbers in the experiment that increase the size. Each is set to its best value, one after another.
            For example `model.d_model`, whose values must suit the heads, and then `model.ffn.expansion`.
        size_of: Returns the size of an experiment.
        what: The kind of size, for messages.

    Raises:
        MinigptError: There is no such number, or no value of it comes near enough. The message names the nearest size.
    """
    for knob in knobs:
        _number_at(variant, knob)  # a mistake is reported also where no change is needed
    for knob in knobs:
        if not _near(size_of(variant.experiment), base):
            variant = _with_best_value(base, variant, knob, size_of, what)
    size = size_of(variant.experiment)
    if not _near(size, base):
        adjusted = f" ({'; '.join(variant.adjusted)})" if variant.adjusted else ""
        raise MinigptError(
            f"{variant.name}: {' and '.join(knobs)} cannot bring its {what} within 1 % of the base's {base:,}; the nearest "
            f"is {size:,}{adjusted}. Name another --knob, or a finer one after it, such as --knob model.ffn.expansion"
        )
    return variant


def _with_best_value(base: int, variant: Variant, knob: str, size_of: Callable[[Experiment], int], what: Size) -> Variant:
    """The variant with one number set to the value that brings its size nearest to the base's."""
    start = _number_at(variant, knob)
    tried: dict[float, Variant] = {}

    def size(value: float) -> int | None:
        """The size with this value; None if the model refuses it."""
        try:
            tried[value] = variant.with_setting(f"{knob}={value}")
        except ExperimentError:
            return None
        return size_of(tried[value].experiment)

    # d_model must be a multiple of n_heads, and many mixers need an even head_dim.
    best = _best_value(start, 2 * variant.experiment.model.n_heads if knob == "model.d_model" else 1, base, size)
    if best is None or best == start:
        return variant
    return tried[best].changed(tried[best].experiment, f"{knob} {start:g} → {best:g} (--match {what})")


def _near(size: int, target: int) -> bool:
    return abs(size - target) <= TOLERANCE * target


def _best_value(start: float, grid: int, target: int, size: Callable[[float], int | None]) -> float | None:
    """The value whose size is nearest to the target; None if the model refuses all values that were tried.

    Args:
        start: The current value. Values up to 16 times (whole numbers) or 64 times (others) as large are tried.
        grid: Whole numbers are multiples of this number.
        target: The size to match.
        size: Returns the size with a value; None if the model refuses it.
    """
    sizes: dict[float, int] = {}

    def is_enough(value: float) -> bool:
        new_size = size(value)
        if new_size is not None:
            sizes[value] = new_size
        return new_size is None or new_size >= target

    if isinstance(start, int):
        first, last = 1, 16 * start // grid
        if last <= _FEW:  # for example n_heads, where most values may be refused
            for multiple in range(first, last + 1):
                is_enough(multiple * grid)
        else:
            while first <= last:
                middle = (first + last) // 2
                first, last = (first, middle - 1) if is_enough(middle * grid) else (middle + 1, last)
    else:
        low, high = start / 64, start * 64
        for _ in range(40):  # bisection of the logarithm, to a relative precision of 1e-10
            middle_value = (low * high) ** 0.5
            low, high = (low, middle_value) if is_enough(middle_value) else (middle_value, high)
            if any(_near(tried, target) for tried in sizes.values()):
                break
    return min(sizes, key=lambda value: abs(sizes[value] - target), default=None)


def _number_at(variant: Variant, knob: str) -> float:
    value = setting_at(variant, knob, "--knob")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MinigptError(f"--knob {knob}: found {value!r} in {variant.name}; a number that increases the size is needed")
    return value
