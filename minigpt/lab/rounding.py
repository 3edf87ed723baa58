"""Numbers as text that does not contradict them: what is above a threshold is above it in the digits that are shown."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt.lab.statistics import ALPHA

_MOST_DECIMALS = 7  # beyond them a number is shown with an exponent


def shown(value: float, thresholds: Sequence[float], *, decimals: int = 4, sign: str = "+") -> str:
    """The value with so many decimals, or with more where fewer would move it to or across a threshold.

    Args:
        value: A finite number.
        thresholds: What it is compared with, by the reader too.
        decimals: The fewest.
        sign: `+` to show the sign always, `-` to show it where it is negative.
    """
    forms = [f"{sign}.{number}f" for number in range(decimals, _MOST_DECIMALS + 1)]
    forms += [f"{sign}.{number}e" for number in range(17)]
    for form in forms:
        text = format(value, form)
        if all(_side(float(text), threshold) == _side(value, threshold) for threshold in thresholds):
            return text
    return format(value, f"{sign}.17g")


def shown_difference(value: float, delta: float) -> str:
    """A difference to the base, or a bound of one: on its side of 0 and of plus and minus delta."""
    return shown(value, (-delta, 0.0, delta))


def shown_interval(bounds: Sequence[float], delta: float) -> str:
    """Both bounds."""
    return " to ".join(shown_difference(bound, delta) for bound in bounds)


def shown_probability(p: float) -> str:
    """A p-value, on its side of 0.05."""
    return "< 0.001" if p < 0.001 else shown(p, (ALPHA,), decimals=3, sign="-")


def as_typed(number: float) -> str:
    """`0.01`, `1`: the shortest text that is read as this very number."""
    return repr(float(number)).removesuffix(".0")


def _side(value: float, threshold: float) -> int:
    return (value > threshold) - (value < threshold)
