"""The suite against components with one mistake each: every mistake is caught, by the property that ought to."""

from __future__ import annotations

import pytest

from minigpt.check import Result, check_component, property_names
from minigpt.registry import REGISTRY
from tests.broken import BROKEN, CORRECT, Broken, Correct, register_broken

QUICKEST = {"shape", "causality", "gradient", "liveness", "lossless", "ids", "splits", "groups", "finite", "function"}


def _label(item: Broken | Correct) -> str:
    return f"{item.family}-{item.name}"


def _told(results: list[Result]) -> str:
    return "; ".join(f"{r.property}: {r.failure.message} {r.failure.example}" for r in results if r.failure)


@pytest.mark.parametrize("item", BROKEN, ids=_label)
def test_each_mistake_is_caught_by_the_property_that_ought_to_catch_it(item: Broken) -> None:
    register_broken(item)
    report = check_component(item.family, item.name, only={item.property}, shrink=False)
    (result,) = report.results
    assert result.property == item.property
    assert result.verdict == "fail", f"{item.property} does not see that {item.why}; {result.verdict} {result.note}"
    assert report.verdict == "fail"
    assert result.failure is not None
    assert result.failure.message
    assert result.failure.example
    assert result.failure.cause


@pytest.mark.parametrize("item", CORRECT, ids=_label)
def test_what_the_mistakes_are_made_in_raises_no_alarm(item: Correct) -> None:
    """Without this, a mistake might be caught for what it shares with a component that is right."""
    register_broken(item)
    report = check_component(item.family, item.name, quick=True, only=QUICKEST)
    assert report.verdict == "pass", _told(report.failures)


@pytest.mark.slow
@pytest.mark.parametrize("item", CORRECT, ids=_label)
def test_what_the_mistakes_are_made_in_raises_no_alarm_in_the_whole_suite(item: Correct) -> None:
    register_broken(item)
    report = check_component(item.family, item.name)
    assert report.verdict == "pass", _told(report.failures)


def test_each_mistake_is_made_in_a_component_that_is_right() -> None:
    right = {
        family.name: tuple(item.cls for item in CORRECT if item.family == family.name) for family in REGISTRY.families()
    }
    assert [item.name for item in BROKEN if not issubclass(item.cls, right[item.family])] == []


def test_there_are_mistakes_of_every_family_and_for_every_property() -> None:
    assert len(BROKEN) >= 60
    assert len({(item.family, item.name) for item in BROKEN}) == len(BROKEN)
    assert {item.family for item in BROKEN} == {family.name for family in REGISTRY.families()}
    # Of the compiler's own code: that it computes what is traced is torch's to keep, and takes a minute to see.
    assert set(property_names()) - {"inductor"} == {item.property for item in BROKEN}


def test_every_family_is_held_to_the_properties_that_its_mistakes_name() -> None:
    for item in BROKEN:
        assert item.property in property_names(item.family), item.name
