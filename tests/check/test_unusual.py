"""The suite against components that are right but unusual: no property calls them broken, with any seed."""

from __future__ import annotations

import pytest

from minigpt.check import TargetReport, check_component, property_names
from minigpt.registry import REGISTRY
from tests.unusual import UNUSUAL, Unusual

DECLARED = {"unusual_noisyintraining", "unusual_roundsdeclared"}
"""They declare that the property does not hold, with every parameter."""


def _label(item: Unusual) -> str:
    return f"{item.family}-{item.name}"


def _failures(report: TargetReport) -> str:
    return "; ".join(f"{r.property}: {r.failure.message} {r.failure.example}" for r in report.failures if r.failure)


@pytest.mark.parametrize("item", UNUSUAL, ids=_label)
def test_the_property_that_it_is_unusual_for_holds(item: Unusual) -> None:
    REGISTRY.register(item.family, item.name)(item.cls)
    report = check_component(item.family, item.name, only={item.property})
    expected = "untried" if item.name in DECLARED else "pass"
    assert report.verdict == expected, f"{_failures(report)}, although it is right: {item.why}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("item", UNUSUAL, ids=_label)
def test_every_property_holds_with_any_seed(item: Unusual, seed: int) -> None:
    REGISTRY.register(item.family, item.name)(item.cls)
    report = check_component(item.family, item.name, seed=seed)
    assert report.verdict != "fail", f"{_failures(report)}, although it is right: {item.why}"


def test_each_names_a_property_of_its_family() -> None:
    assert len({(item.family, item.name) for item in UNUSUAL}) == len(UNUSUAL)
    for item in UNUSUAL:
        assert item.property in property_names(item.family), item.name
