"""Tests of the choice of values from trials."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.errors import MinigptError
from minigpt.lab.compare.trials import Tune, Tuning, around, best_of, beyond, edge_of, mean_or_worst, path_of


@pytest.mark.parametrize(
    ("own", "bounds", "values"),
    [
        (0.004, (0, 1), [0.001, 0.002, 0.004, 0.008, 0.016]),
        (3e-4, (0, 1), [7.5e-5, 1.5e-4, 3e-4, 6e-4, 1.2e-3]),
        (0.3, (0, 1), [0.0375, 0.075, 0.15, 0.3, 0.6]),
        (8, (1, 99), [2, 4, 8, 16, 32]),
        (1, (1, 99), [1, 2, 4, 8, 16]),
        (3, (1, 99), [1, 2, 3, 6, 12]),
        (64, (1, 64), [4, 8, 16, 32, 64]),
        (-2.0, (-9, 0), [-8.0, -4.0, -2.0, -1.0, -0.5]),
    ],
)
def test_a_grid_has_five_values_around_the_own_that_are_allowed(
    own: float, bounds: tuple[float, float], values: list[float]
) -> None:
    found = around(own, lambda value: bounds[0] <= value <= bounds[1])
    assert found == values
    assert {type(value) for value in found} == {type(own)}


@pytest.mark.parametrize(
    ("values", "edge", "new"),
    [
        ([0.001, 0.002, 0.004], "lowest", 0.0005),
        ([0.001, 0.002, 0.004], "highest", 0.008),
        ([0.1, 0.3], "highest", 0.9),
        ([0.0, 0.1, 0.2], "lowest", None),
        ([0.0, 0.1], "highest", None),
        ([0.0, 0.1, 0.2], "highest", 0.4),
        ([-4.0, -1.0], "lowest", -16.0),
        ([2, 4, 8], "highest", 16),
        ([1, 2, 4], "lowest", None),
        ([16384, 32768], "highest", 65536),
    ],
)
def test_a_grid_is_extended_by_the_ratio_of_its_outermost_values(values: list[float], edge: str, new: float | None) -> None:
    assert beyond(values, edge) == new  # type: ignore[arg-type]


@given(st.dictionaries(st.sampled_from("abcde"), st.floats(0, 9) | st.just(math.inf), min_size=1), st.sampled_from("abcde"))
def test_the_best_trial_has_the_lowest_loss_and_the_own_one_needs_no_reason(losses: dict[str, float], own: str) -> None:
    best = best_of(losses, own)
    if best is None:
        assert set(losses.values()) == {math.inf}
    else:
        assert losses[best] == min(losses.values()) < math.inf
        assert best == own or own not in losses or losses[own] > losses[best]


def test_a_trial_with_a_failed_seed_is_worse_than_any_other() -> None:
    assert mean_or_worst([1.0, 2.0]) == 1.5
    assert mean_or_worst([1.0, None]) == mean_or_worst([]) == math.inf


@pytest.mark.parametrize(
    ("values", "best", "edge"),
    [
        ([1, 2, 4], 1, "lowest"),
        ([4, 2, 1.0], 4, "highest"),
        ([1, 2, 4], 2, None),
        (["a", "b"], "a", None),
        ([1, "b"], 1, None),
    ],
)
def test_only_numbers_have_an_edge(values: list[float | str], best: float | str, edge: str | None) -> None:
    assert edge_of(values, best) == edge


def test_a_word_is_the_shallowest_setting_of_its_name() -> None:
    inner = {"name": "adamw", "learning_rate": 1.0}
    for optimizer, path in (
        ({"name": "muon", "learning_rate": 1.0, "rest": inner}, "training.optimizer.learning_rate"),
        ({"name": "ema", "optimizer": inner}, "training.optimizer.optimizer.learning_rate"),
        ({"name": "two", "a": inner, "b": inner}, None),
        ({"name": "none"}, None),
    ):
        document = {"seed": 1, "training": {"optimizer": optimizer}}
        assert path_of(document, "learning_rate") == path
    assert path_of(document, "training.x") == "training.x"
    assert path_of(document, "seed") == "seed"


def test_a_word_names_a_setting_and_perhaps_its_values() -> None:
    assert Tune.parse("learning_rate") == Tune()
    assert Tune.parse("a.b=1e-3, gqa,[1, 2]") == Tune("a.b", (0.001, "gqa", [1, 2]))
    assert Tuning.parse(["a", "b=1,2"], 2, 0.5) == Tuning((Tune("a"), Tune("b", (1, 2))), 2, 0.5)
    assert Tuning.parse([], None, None) is None


@pytest.mark.parametrize(
    ("words", "seeds", "share", "message"),
    [
        (["a="], None, None, r'^--tune: found "a="; allowed: PATH=v1,v2'),
        ([""], None, None, r'^--tune: found ""; allowed'),
        (["a=1"], None, None, r"^--tune a: one value leaves no choice; name more of them, or use --set$"),
        (["a=1,1"], None, None, r"^--tune a: one value leaves no choice"),
        (["a"], 0, None, r"^--tune-seeds: found 0; allowed: 1 to 10,000$"),
        (["a"], None, 0.0, r"^--tune-budget: found 0; allowed: a part of the training, above 0 and at most 1$"),
        (["a"], None, math.nan, r"^--tune-budget: found nan; allowed"),
        ([], 2, None, r"^--tune-seeds is about --tune: add --tune learning_rate"),
        ([], None, 0.5, r"^--tune-budget is about --tune: add --tune learning_rate"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], seeds: int | None, share: float | None, message: str) -> None:
    with pytest.raises(MinigptError, match=message):
        Tuning.parse(words, seeds, share)
