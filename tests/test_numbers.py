"""Each quantity has one form, wherever it is shown."""

from __future__ import annotations

import pytest

from minigpt import numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.shown_loss(None), "–"),
        (numbers.shown_loss(1.23456), "1.2346"),
        (numbers.shown_loss(1.23456, 0.0012), "1.2346 ± 0.0012"),
        (numbers.shown_interval((None, 0.5), 0.01), "–"),
        (numbers.shown_interval((-0.5, 0.25), 0.01), "-0.5000 to +0.2500"),
        (numbers.shown_probability(None, 0.05), "–"),
        (numbers.shown_probability(0.0004, 0.05), "< 0.001"),
        (numbers.shown_whole(1234567), "1,234,567"),
        (numbers.shown_whole(None), "–"),
        (numbers.shown_share(0.123), "12%"),
        (numbers.shown_speed(12345.6), "12,346"),
        (numbers.operations(1_234_567_000_000), "1.235 TFLOP"),
        (numbers.operations(56_780_000), "56.78 MFLOP"),
        (numbers.size(999), "999 bytes"),
        (numbers.size(12_900_000), "12.9 MB"),
        (numbers.duration(200), "3 min 20 s"),
        (numbers.duration_of(4)(4.25), "4.2 s"),
        (numbers.duration_of(45)(44.6), "45 s"),
        (numbers.duration_of(200)(200), "3.3 min"),
        (numbers.measured_time(0.00314), "3.14 ms"),
        (numbers.measured_time(1.25), "1.25 s"),
        (numbers.age(45), "45 s"),
        (numbers.age(3 * 86_400), "3 d"),
    ],
)
def test_a_number_is_shown_in_its_form(text: str, expected: str) -> None:
    assert text == expected
