"""Tests of which seeds a comparison uses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any
from unittest.mock import Mock

import pytest

from minigpt.errors import MinigptError
from minigpt.lab.compare import Settings
from minigpt.lab.compare.seeds import SeedRange, parse_seeds, seeds_of


@pytest.mark.parametrize(
    ("typed", "number"), [("1", 1), ("10000", 10_000), ("3..12", SeedRange(3, 12)), ("1..2", SeedRange(1, 2))]
)
def test_a_number_of_seeds_is_read_as_typed(typed: str, number: int | SeedRange) -> None:
    assert parse_seeds(typed) == number


def test_a_range_that_cannot_grow_is_refused_in_python_too() -> None:
    with pytest.raises(MinigptError, match=r'--seeds: found "5..5"; allowed'):
        SeedRange(5, 5)


def variants(*names: str, runs: Any = ()) -> list[Any]:
    """Variants whose first seed is 5, as files or as runs with these seeds."""
    folders = [Mock(**{"experiment.return_value.seed": seed}) for seed in runs]
    made = [Mock(runs=tuple(folders), experiment=Mock(seed=5)) for _ in names]
    for variant, name in zip(made, names, strict=True):
        variant.name = name
    return made


@pytest.mark.parametrize(
    ("names", "runs", "number", "noise", "words"),
    [
        ("ab", (), None, True, "seeds 5 to 7, base again with 8 to 10"),
        ("ab", (), None, False, "seeds 5 to 7"),
        ("ab", (), 1, True, "seed 5, base again with 6"),
        ("ab", (), SeedRange(3, 12), True, "seeds 5 to 7, up to 16 if there is no verdict, base again with 17 to 19"),
        ("ab", (), SeedRange(2, 3), False, "seeds 5 to 6, up to 7 if there is no verdict"),
        ("a", (), 4, True, "seeds 5 to 8, base again with 9 to 12"),
        ("ab", (2, 3, 4), None, True, "seeds 2 to 4"),
        ("a", (2, 3, 4), None, True, "seeds 2 to 4, base again with 5 to 7"),
        ("ab", (2, 3, 4), 2, True, "seeds 5 to 6, base again with 7 to 8"),
        ("ab", (5, 6), SeedRange(3, 4), False, "seeds 5 to 7, up to 8 if there is no verdict"),
    ],
)
def test_the_seeds_of_a_comparison(names: str, runs: Any, number: Any, noise: bool, words: str) -> None:
    planned = seeds_of(variants(*names, runs=runs), number, noise=noise)
    assert str(planned) == words
    every = [seed for group in dataclasses.astuple(planned) for seed in group]
    assert len(set(every)) == len(every), "no seed has two purposes"
    assert len(planned.again) in (0, len(planned.first))


@pytest.mark.parametrize(("number", "noise"), [(3, False), (None, False), (SeedRange(3, 5), True)])
def test_a_base_without_variants_needs_a_fixed_second_group(number: Any, noise: bool) -> None:
    with pytest.raises(MinigptError, match="a base and at least one variant: minigpt compare BASE VARIANT"):
        seeds_of(variants("a"), number, noise=noise)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": 0}, '--seeds: found "0"; allowed: a number from 1'),
        ({"seeds": -2}, '--seeds: found "-2"; allowed'),
        ({"delta": 0.0}, "delta: found 0; allowed: a number above 0"),
        ({"delta": math.nan}, "delta: found nan; allowed"),
        ({"jobs": 0}, "jobs: found 0; allowed: 1 or more"),
    ],
)
def test_settings_without_sense_are_refused_before_anything_is_trained(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(MinigptError, match=message):
        Settings(**wrong)
