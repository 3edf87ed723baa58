"""Format numbers as text, for all tables, messages and pages: one format for each quantity.

The shown digits of a number are on the same side of a threshold as the number itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNKNOWN = "–"
"""Shown for a number that is not known."""

_MOST_DECIMALS = 7  # beyond them a number is shown with an exponent


# ------------------------------------------------------------------------------------------------------------- results


def shown(value: float, thresholds: Sequence[float], *, decimals: int = 4, sign: str = "+") -> str:
    """The value with `decimals` decimals, or with more if rounding would move it to or across a threshold.

    Args:
        value: A finite number.
        thresholds: Numbers with which the reader compares the value.
        decimals: The smallest number of decimals.
        sign: `+` to always show the sign, `-` to show it only for negative values.
    """
    forms = [f"{sign}.{number}f" for number in range(decimals, _MOST_DECIMALS + 1)]
    forms += [f"{sign}.{number}e" for number in range(17)]
    for form in forms:
        text = format(value, form)
        if all(_side(float(text), threshold) == _side(value, threshold) for threshold in thresholds):
            return text
    return format(value, f"{sign}.17g")


def shown_difference(value: float, delta: float) -> str:
    """A difference from the base or a bound of it, on the correct side of 0, delta and -delta."""
    return shown(value, (-delta, 0.0, delta))


def shown_interval(bounds: Sequence[float | None], delta: float) -> str:
    """Both bounds of an interval; unknown if a bound is unknown."""
    known = [bound for bound in bounds if bound is not None]
    return " to ".join(shown_difference(bound, delta) for bound in known) if len(known) == len(bounds) else UNKNOWN


def shown_probability(p: float | None, alpha: float) -> str:
    """A p-value, on the correct side of alpha."""
    if p is None:
        return UNKNOWN
    return "< 0.001" if p < 0.001 else shown(p, (alpha,), decimals=3, sign="-")


def shown_loss(loss: float | None, sd: float | None = None) -> str:
    """A loss: `1.2345`, or with its standard deviation `1.2345 ± 0.0012`."""
    if loss is None:
        return UNKNOWN
    return f"{loss:.4f}" + ("" if sd is None else f" ± {sd:.4f}")


def as_typed(number: float) -> str:
    """The shortest text that is read as exactly this number: `0.01`, `1`."""
    return repr(float(number)).removesuffix(".0")


# ----------------------------------------------------------------------------------------------------- counts and sizes


def shown_whole(number: int | None) -> str:
    """A whole number with separators: `1,234,567`."""
    return UNKNOWN if number is None else f"{number:,}"


def shown_share(share: float | None) -> str:
    """A fraction as a percentage: `12%`."""
    return UNKNOWN if share is None else f"{share:.0%}"


def shown_speed(per_second: float) -> str:
    """Tokens per second: `12,345`."""
    return f"{per_second:,.0f}"


def operations(number: int) -> str:
    """A number of operations with four digits: `1.234 TFLOP`, `56.78 MFLOP`."""
    for unit, scale in (("TFLOP", 1e12), ("GFLOP", 1e9)):
        if number >= scale:
            return f"{number / scale:.4g} {unit}"
    return f"{number / 1e6:.4g} MFLOP"


def size(number: int) -> str:
    """A number of bytes with a decimal unit: `12.9 MB`, `1.2 TB`."""
    value, units = float(number), ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:,.0f} {units[0]}" if units[0] == "bytes" or value >= 100 else f"{value:.1f} {units[0]}"


# --------------------------------------------------------------------------------------------------------------- times


def duration(seconds: float) -> str:
    """How long something takes: `45 s`, `3 min 20 s`, `7 h 40 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def duration_of(typical: float) -> Callable[[float], str]:
    """A format for times of about `typical` seconds, so that they share a unit: `4.2 s`, `45 s`, `3.4 min`."""
    if typical >= 120:
        return lambda seconds: f"{seconds / 60:.1f} min"
    return lambda seconds: f"{seconds:.1f} s" if typical < 10 else f"{seconds:.0f} s"


def measured_time(seconds: float) -> str:
    """A measured time: `1.25 s`, `3.14 ms`."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def age(seconds: float) -> str:
    """The time since an event: `3 d`, `7 h`, `20 min`, `45 s`."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _side(value: float, threshold: float) -> int:
    return (value > threshold) - (value < threshold)
