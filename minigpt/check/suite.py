"""The suite: every property, and what comes of trying them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from minigpt.check.properties import dataset, decoding, families, knobs, optimizer, schedule, sequence, tokenizer, weights
from minigpt.check.property import SUITE, Result, properties_for, run_property
from minigpt.check.targets import Target, component_target
from minigpt.errors import CheckError, listing, nearest
from minigpt.reading import AS_WRITTEN, Reading

# The order of the report: what matters most comes first.
_MODULES = [
    module.__name__ for module in (sequence, decoding, families, weights, tokenizer, dataset, optimizer, schedule, knobs)
]
SUITE.sort(key=lambda prop: _MODULES.index(prop.test.__module__))

EXAMPLES = 5
"""Random cases for each property, after the fixed ones."""


@dataclass(frozen=True)
class TargetReport:
    """What came of checking one target.

    Attributes:
        target: Its label.
        family: Its family, or `experiment`.
        results: One a property.
        seconds: Time taken.
        reading: How the target was read.
    """

    target: str
    family: str
    results: tuple[Result, ...]
    seconds: float
    reading: Reading = AS_WRITTEN

    @property
    def verdict(self) -> Literal["pass", "fail", "untried"]:
        """Fail if any property does; untried if none could be tried."""
        if self.failures:
            return "fail"
        return "pass" if any(result.verdict == "pass" for result in self.results) else "untried"

    @property
    def failures(self) -> list[Result]:
        """The properties that do not hold."""
        return [result for result in self.results if result.verdict == "fail"]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {"verdict": self.verdict, **to_jsonable_python(self)}


def check(
    target: Target,
    *,
    only: Collection[str] | None = None,
    seed: int = 0,
    quick: bool = False,
    thorough: bool = False,
    examples: int = EXAMPLES,
    shrink: bool = True,
) -> TargetReport:
    """Try every property of a target's family.

    Args:
        target: What to check.
        only: Names of the properties to try; None for all.
        seed: Of the random cases.
        quick: Only the quick part, on its first few cases.
        thorough: What takes long too, such as torch.compile's own code; `only` has what it names in any case.
        examples: Random cases for each property.
        shrink: Look for the smallest case where one fails.

    Raises:
        CheckError: There is no property of a name in `only`.
    """
    _check_names(only or ())
    start = time.perf_counter()
    known = properties_for(target.family, quick=quick, thorough=thorough or only is not None)
    chosen = [prop for prop in known if only is None or prop.name in only]
    results = tuple(
        run_property(prop, target, examples=0 if quick else examples, seed=seed, shrink=shrink) for prop in chosen
    )
    seconds = time.perf_counter() - start
    return TargetReport(target.label, target.family, results, seconds, target.reading)


def check_component(
    family: str,
    name: str,
    *,
    only: Collection[str] | None = None,
    seed: int = 0,
    quick: bool = False,
    shrink: bool = True,
) -> TargetReport:
    """Check a registered component.

    Raises:
        RegistryError: There is none of that name.
    """
    return check(component_target(family, name), only=only, seed=seed, quick=quick, shrink=shrink)


def property_names(family: str | None = None, *, thorough: bool = True) -> list[str]:
    """Names of all properties, or of those a family is held to; without the thorough ones if so asked."""
    known = [prop for prop in SUITE if thorough or not prop.thorough]
    return list(dict.fromkeys(prop.name for prop in known if family is None or family in prop.families))


def _check_names(names: Iterable[str]) -> None:
    known = property_names()
    for name in names:
        if name not in known:
            raise CheckError(f'there is no property "{name}"; known: {listing(known)}{nearest(name, known)}')
