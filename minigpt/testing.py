"""For the tests of a plugin or a package: the suite of `minigpt check` as pytest cases, one a property.

    from minigpt.testing import conformance

    @conformance("attention", "mine")
    def test_mine_keeps_its_contract() -> None:
        pass  # every property that attention is held to, a case each

It needs pytest, which minigpt itself does not.
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
    """Make a test of an empty function: a case for each property that its family is held to.

    Args:
        family: Such as "attention".
        name: The component's name in it.
        plugin: The plugin file that registers it; None for a package with an entry point, or where the test imports it.
        seed: Of the random cases.
        thorough: Also what takes long, such as torch.compile's own code.
    """

    def decorate(test: Callable[[], None]) -> Callable[..., None]:
        @pytest.mark.parametrize("property_name", property_names(family, thorough=thorough))
        @functools.wraps(test)
        def case(property_name: str) -> None:
            result = _result(family, name, property_name, plugin, seed)
            if result.verdict == "skip":
                pytest.skip(result.note)
            if result.failure is not None:
                pytest.fail(_told(family, name, result), pytrace=False)
            test()

        del case.__wrapped__  # pytest would look there for the arguments
        return case

    return decorate


def assert_conforms(family: str, name: str, *, plugin: str | Path | None = None, seed: int = 0) -> None:
    """All properties at once, without pytest's parametrisation.

    Raises:
        AssertionError: One does not hold; every one is told.
    """
    results = [_result(family, name, each, plugin, seed) for each in property_names(family, thorough=False)]
    broken = [_told(family, name, result) for result in results if result.failure is not None]
    assert not broken, "\n\n".join(broken)


def _result(family: str, name: str, property_name: str, plugin: str | Path | None, seed: int) -> Result:
    plugins.load_installed()
    if plugin is not None:
        plugins.load_file(Path(plugin).absolute())
    (result,) = Options(only=(property_name,), seed=seed).check(component_target(family, name)).results
    return result


def _told(family: str, name: str, result: Result) -> str:
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
