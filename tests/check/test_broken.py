"""The suite against components with one mistake each: the expected property finds each mistake."""

from __future__ import annotations

import pytest

from minigpt.check import Result, check_component, property_names
from minigpt.registry import REGISTRY
from tests.broken import BROKEN, CORRECT, Broken, Correct, register_broken

QUICKEST = {"shape", "causality", "gradient", "liveness"}
QUICKEST |= {"lossless", "ids", "splits", "groups", "finite", "function", "distribution", "factors", "scalar"}


def _label(item: Broken | Correct) -> str:
    return f"{item.family}-{item.name}"


def _described(results: list[Result]) -> str:
    return "; ".join(f"{r.property}: {r.failure.message} {r.failure.example}" for r in results if r.failure)


@pytest.mark.parametrize("item", BROKEN, ids=_label)
def test_the_expected_property_finds_each_mistake(item: Broken) -> None:
    register_broken(item)
    report = check_component(item.family, item.name, only={item.property}, shrink=False)
    (result,) = report.results
    assert result.property == item.property
    assert result.verdict == "fail", (
        f"{item.property} does not find this mistake: {item.why}; {result.verdict} {result.note}"
    )
    assert report.verdict == "fail"
    assert result.failure is not None
    assert result.failure.message
    assert result.failure.example
    assert result.failure.cause


@pytest.mark.slow
@pytest.mark.parametrize("item", CORRECT, ids=_label)
def test_components_without_a_mistake_pass_the_quickest_properties(item: Correct) -> None:
    """Otherwise a broken component might fail because of its correct base class."""
    register_broken(item)
    report = check_component(item.family, item.name, quick=True, only=QUICKEST)
    assert report.verdict == "pass", _described(report.failures)


@pytest.mark.slow
@pytest.mark.parametrize("item", CORRECT, ids=_label)
def test_components_without_a_mistake_pass_the_whole_suite(item: Correct) -> None:
    register_broken(item)
    report = check_component(item.family, item.name)
    assert report.verdict == "pass", _described(report.failures)


def test_each_broken_component_is_a_subclass_of_a_correct_one() -> None:
    correct_classes = {
        family.name: tuple(item.cls for item in CORRECT if item.family == family.name) for family in REGISTRY.families()
    }
    assert [item.name for item in BROKEN if not issubclass(item.cls, correct_classes[item.family])] == []


def test_there_are_mistakes_in_every_family_and_for_every_property() -> None:
    assert len(BROKEN) >= 500
    assert len({(item.family, item.name) for item in BROKEN}) == len(BROKEN)
    assert {item.family for item in BROKEN} == {family.name for family in REGISTRY.families()}
    # `inductor` has no mistake: torch itself ensures that compiled code equals the trace, and a test takes a minute.
    # Mistakes for the properties of runs are in tests/broken/scorers.py.
    of_families = {name for family in REGISTRY.families() for name in property_names(family.name)}
    assert of_families - {"inductor"} == {item.property for item in BROKEN}


def test_every_family_has_the_properties_that_its_mistakes_name() -> None:
    for item in BROKEN:
        assert item.property in property_names(item.family), item.name
