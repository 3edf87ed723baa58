"""Pytest cases of `minigpt check` for the tests of a plugin or a package, one case per property.

    from minigpt.testing import conformance

    @conformance("attention", "mine")
    def test_mine_keeps_its_contract() -> None:
        pass  # one case for each property of an attention

It needs pytest, which is not a dependency of minigpt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from minigpt.check import Result, component_target
from minigpt.check.parallel import Options
from minigpt.check.suite import property_names
from minigpt.registry import plugins

__all__ = ["assert_conforms", "conformance"]


def conformance(
    family: str, name: str, *, plugin: str | Path | None = None, seed: int = 0, thorough: bool = False
) -> Callable[[Callable[[], None]], Callable[..., None]]:
    """Turn an empty function into a test with a case for each property of the family.

    Args:
        family: Such as "attention".
        name: The component's name in the family.
        plugin: The plugin file that registers it; None for a package with an entry point, or if the test imports it.
        seed: Seed of the random cases.
        thorough: Whether to include slow checks, such as with torch.compile.
    """

    def decorate(test: Callable[[], None]) -> Callable[..., None]:
        @pytest.mark.parametrize("property_name", property_names(family, thorough=thorough))
        @functools.wraps(test)
        def case(property_name: str) -> None:
            result = _result(family, name, property_name, plugin, seed)
            if result.verdict == "skip":
                pytest.skip(result.note)
            if result.failure is not None:
                pytest.fail(_violation_text(family, name, result), pytrace=False)
            test()

        del case.__wrapped__  # pytest would take the arguments of the wrapped function
        return case

    return decorate


def assert_conforms(family: str, name: str, *, plugin: str | Path | None = None, seed: int = 0) -> None:
    """Check all properties in one call, without pytest's parametrisation.

    Raises:
        AssertionError: A property does not hold; the message has all that do not.
    """
    results = [_result(family, name, each, plugin, seed) for each in property_names(family, thorough=False)]
    broken = [_violation_text(family, name, result) for result in results if result.failure is not None]
    assert not broken, "\n\n".join(broken)


def _result(family: str, name: str, property_name: str, plugin: str | Path | None, seed: int) -> Result:
    plugins.load_installed()
    if plugin is not None:
        plugins.load_file(Path(plugin).absolute())
    (result,) = Options(only=(property_name,), seed=seed).check(component_target(family, name)).results
    return result


def _violation_text(family: str, name: str, result: Result) -> str:
    failure = result.failure
    assert failure is not None
    size = "" if failure.size is None else f" (by {failure.size:.2g} of its size)"
    lines = [
        f"{family}/{name} breaks {result.property}: {result.says}",
        f"found: {failure.message}{size}",
        f"smallest example: {failure.example}",
        f"usual cause: {failure.cause}" if failure.cause else "",
    ]
    return "\n".join(filter(None, lines))
