"""Numbers as text that stays on the same side of a threshold as the number."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt.lab.statistics import ALPHA

_MOST_DECIMALS = 7  # numbers that need more decimals are shown with an exponent


def shown(value: float, thresholds: Sequence[float], *, decimals: int = 4, sign: str = "+") -> str:
    """The value with `decimals` decimals, or with more if rounding would move it to or across a threshold.

    Args:
        value: A finite number.
        thresholds: Numbers that it is compared with, also by the reader.
        decimals: The smallest number of decimals.
        sign: `+` to show the sign always, `-` to show it only for negative values.
    """
    forms = [f"{sign}.{number}f" for number in range(decimals, _MOST_DECIMALS + 1)]
    forms += [f"{sign}.{number}e" for number in range(17)]
    for form in forms:
        text = format(value, form)
        if all(_side(float(text), threshold) == _side(value, threshold) for threshold in thresholds):
            return text
    return format(value, f"{sign}.17g")


def shown_difference(value: float, delta: float) -> str:
    """A difference to the base, or a bound of one, on its side of 0, delta and -delta."""
    return shown(value, (-delta, 0.0, delta))


def shown_interval(bounds: Sequence[float], delta: float) -> str:
    """Both bounds of an interval."""
    return " to ".join(shown_difference(bound, delta) for bound in bounds)


def shown_probability(p: float) -> str:
    """A p-value, on its side of 0.05."""
    return "< 0.001" if p < 0.001 else shown(p, (ALPHA,), decimals=3, sign="-")


def as_typed(number: float) -> str:
    """The shortest text that is read as this number, such as `0.01` or `1`."""
    return repr(float(number)).removesuffix(".0")


def _side(value: float, threshold: float) -> int:
    return (value > threshold) - (value < threshold)
