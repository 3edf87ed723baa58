"""Simulations of the ledger, whose formula is a second one: each discovery adds to all later levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.lab.statistics import ALPHA, discoveries

SIMULATION_ERROR = 3 * (0.05 * 0.95 / 20_000) ** 0.5


@pytest.fixture(scope="module")
def simulation() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        from tests.benchmarks.conftest import ROOT

        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import ledger
    return ledger


@given(p=st.lists(st.sampled_from((0.0, 0.001, 0.004, 0.01, 0.04, 0.3)), min_size=1, max_size=60))
def test_levels_agree_with_a_second_formula_and_never_spend_more_than_was_earned(simulation: Any, p: list[float]) -> None:
    found, levels = simulation.survivors(np.array([p]))
    earlier: list[int] = []
    spent = 0.0
    for number, (each, survives, expected) in enumerate(zip(p, found[0], levels[0], strict=True), 1):
        level = discoveries.level(number, earlier)
        assert level == pytest.approx(expected, rel=1e-9)
        spent += level
        if survives:
            assert each <= level
            earlier.append(number)
        assert spent <= ALPHA * max(1, len(earlier)), "the estimated share of false discoveries (1710.00499, theorem 1)"


@pytest.mark.parametrize(("questions", "one_base"), [(20, False), (50, True)])
def test_a_program_that_tries_variants_without_effect_passes_the_gate_at_most_as_often_as_promised(
    simulation: Any, questions: int, one_base: bool
) -> None:
    p, differs = simulation.variants(questions, 0, 0, one_base=one_base)(np.random.default_rng(3))
    any_false, *_ = simulation.rates(simulation.survivors(p)[0], differs)
    assert 0.02 < any_false <= discoveries.START + SIMULATION_ERROR
    assert simulation.rates(p < ALPHA, differs)[0] > 0.5, "without the ledger"


def test_adding_seeds_to_one_variant_until_a_verdict_survives_is_covered(simulation: Any) -> None:
    p, differs = simulation.looks(20)(np.random.default_rng(4))
    assert simulation.rates(simulation.survivors(p)[0], differs)[0] <= discoveries.START + SIMULATION_ERROR


@pytest.mark.parametrize("one_base", [False, True])
def test_at_most_five_per_cent_of_what_survives_twenty_calls_is_false(simulation: Any, one_base: bool) -> None:
    p, differs = simulation.variants(20, 0.2, 4, one_base=one_base)(np.random.default_rng(5))
    _, false_share, power = simulation.rates(simulation.survivors(p)[0], differs)
    assert false_share <= ALPHA
    assert power > 0.7
    assert simulation.rates(p < ALPHA, differs)[1] > 0.1, "without the ledger"
