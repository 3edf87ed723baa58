"""One property: what it says, what it is tried on, and the smallest case that breaks it."""

from __future__ import annotations

import dataclasses
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Flaky, NoSuchExample
from hypothesis.strategies import SearchStrategy
from pydantic_core import to_jsonable_python

from minigpt.check.targets import Target
from minigpt.errors import TrustError
from minigpt.registry import Spec, plugins

C = TypeVar("C")


class Violation(Exception):
    """A component breaks a property.

    Args:
        message: What was seen, in a sentence that names the places.
        cause: The usual cause, as a question.
        at: The token, row or step where it shows; None where there is no such place.
        size: How large it is, relative to what it is compared with; None where there is no measure.
    """

    def __init__(self, message: str, *, cause: str, at: int | None = None, size: float | None = None):
        super().__init__(message)
        self.message, self.at, self.size, self.cause = message, at, size, cause


class NotTried(Exception):
    """A property does not apply, or cannot be tried on this machine; the message says why."""


class Unsuitable(Exception):
    """A case that the component rightly refuses, such as an odd width to be turned in pairs."""


@dataclass(frozen=True)
class Failure:
    """How a component breaks a property.

    Attributes:
        message: What was seen.
        example: The smallest case found.
        at: Where it shows.
        size: How large it is.
        cause: The usual cause.
    """

    message: str
    example: dict[str, Any]
    at: int | None = None
    size: float | None = None
    cause: str = ""


@dataclass(frozen=True)
class Result:
    """What came of one property.

    Attributes:
        property: Its name.
        says: The property in one sentence.
        verdict: pass, fail, or skip where it could not be tried.
        tried: How many cases it was tried on.
        note: What was not tried, and why.
        seconds: Time taken.
        failure: What was found, where it failed.
    """

    property: str
    says: str
    verdict: Literal["pass", "fail", "skip"]
    tried: int
    note: str
    seconds: float
    failure: Failure | None = None


@dataclass(frozen=True)
class Property(Generic[C]):
    """What every component of some families must satisfy.

    Attributes:
        name: A word.
        says: A sentence.
        families: Those it is about.
        quick: How many of its cases, from the first on, belong to the quick part: one in eval mode and one in train mode at
            least; 0 where it does not belong to it.
        thorough: Whether it takes so long that it is tried only on a few components at a time.
        cases: What is tried first, in this order; all of it whatever the seed.
        strategy: Further cases, drawn at random; where one fails, it is shrunk. None where `cases` is all there is.
        test: Raises Violation.
    """

    name: str
    says: str
    families: frozenset[str]
    quick: int
    thorough: bool
    cases: Callable[[Target], Sequence[C]]
    strategy: Callable[[Target], SearchStrategy[C]] | None
    test: Callable[[Target, C], None]


SUITE: list[Property[Any]] = []
"""Every property, in the order of the report."""


def property_of(
    *families: str,
    cases: Callable[[Target], Sequence[C]],
    strategy: Callable[[Target], SearchStrategy[C]] | None = None,
    quick: int = 0,
    thorough: bool = False,
) -> Callable[[Callable[[Target, C], None]], Callable[[Target, C], None]]:
    """Make a property of a test: its name is the function's, what it says is the docstring's first sentence."""

    def decorate(test: Callable[[Target, C], None]) -> Callable[[Target, C], None]:
        says = " ".join((test.__doc__ or "").split("\n\n")[0].split())
        SUITE.append(Property(test.__name__, says, frozenset(families), quick, thorough, cases, strategy, test))
        return test

    return decorate


@dataclass
class _Trial(Generic[C]):
    """A property being tried on one target; counts what it was really tried on."""

    property: Property[C]
    target: Target
    tried: int = 0
    refused: list[str] = field(default_factory=list)

    def example(self, case: C) -> dict[str, Any]:
        """The case as JSON, without what makes no difference to this target."""
        shown = getattr(case, "shown", None)
        names = [field.name for field in dataclasses.fields(case)] if shown is None else shown(self.target)  # type: ignore[arg-type]
        return dict(to_jsonable_python({name: _plain(getattr(case, name)) for name in names}))

    def failure_of(self, case: C) -> Failure | None:
        """What is wrong with this case, if anything."""
        try:
            self.property.test(self.target, case)
        except Unsuitable as refusal:
            self.refused.append(str(refusal))
            return None
        except Violation as violation:
            self.tried += 1
            return Failure(violation.message, self.example(case), violation.at, violation.size, violation.cause)
        except (NotTried, TrustError):  # a plugin that was edited meanwhile is another one
            raise
        except Exception as error:  # a component may raise anything; that breaks whatever was being tried
            self.tried += 1
            return Failure(_told(error), self.example(case), cause="does it cope with these sizes and parameters?")
        self.tried += 1
        return None


def run_property(prop: Property[C], target: Target, *, examples: int, seed: int, shrink: bool = True) -> Result:
    """Try a property on a target.

    Args:
        prop: The property.
        target: The component or model.
        examples: How many random cases to try after the fixed ones; 0 tries only the first fixed ones, for the quick check.
        seed: Of the random cases.
        shrink: Look for a smaller case where one fails.
    """
    start = time.perf_counter()
    trial = _Trial(prop, target)
    try:
        failure = _search(trial, examples, seed, shrink)
    except NotTried as reason:
        return Result(prop.name, prop.says, "skip", 0, str(reason), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    if failure is not None:
        return Result(prop.name, prop.says, "fail", trial.tried, "", seconds, failure)
    if not trial.tried:
        why = trial.refused[0] if trial.refused else "there was nothing to try it on"
        return Result(prop.name, prop.says, "skip", 0, why, seconds)
    # Where every case stands for something of its own, such as a parameter, one that was left out is told.
    note = "; ".join(trial.refused) if prop.strategy is None else ""
    return Result(prop.name, prop.says, "pass", trial.tried, note, seconds)


def _search(trial: _Trial[C], examples: int, seed: int, shrink: bool) -> Failure | None:
    fixed = list(trial.property.cases(trial.target))
    for case in fixed if examples else fixed[: trial.property.quick]:
        failure = trial.failure_of(case)
        if failure is not None:
            return (_smallest(trial, 60, seed, shrink) if shrink else None) or failure
    return _smallest(trial, examples, seed, shrink) if examples else None


def _smallest(trial: _Trial[C], examples: int, seed: int, shrink: bool) -> Failure | None:
    """The smallest failing case among random ones, if there is any."""
    if trial.property.strategy is None:
        return None
    settings = hypothesis.settings(
        max_examples=examples,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    failures: list[Failure] = []
    deadline = time.monotonic() + 20  # shrinking a slow component ends here, with the smallest so far

    def fails(case: C) -> bool:
        if failures and time.monotonic() > deadline:
            return False
        try:
            failure = trial.failure_of(case)
        except NotTried:
            return False  # of some cases only
        failures.extend([failure] if failure else [])
        return failure is not None

    tried = trial.tried
    try:
        hypothesis.find(trial.property.strategy(trial.target), fails, settings=settings, random=random.Random(seed))
    except NoSuchExample:
        return None
    except Flaky:  # what remembers earlier passes does not fail again in the same way: what was seen is what counts
        pass
    trial.tried = max(tried, 1)
    return failures[-1]


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_json()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _told(error: Exception) -> str:
    """`raises ValueError: message (plugin FILE, line N)`."""
    place = plugins.last_place(error)
    if place is None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename}, line {frame.lineno}"
    message = str(error).strip().splitlines()
    return f"raises {type(error).__name__}: {message[0] if message else ''} ({place})"


def properties_for(family: str, *, quick: bool = False, thorough: bool = True) -> Iterator[Property[Any]]:
    """The properties that a family is held to; the quick ones alone, or without the thorough ones."""
    for prop in SUITE:
        if family in prop.families and (prop.quick or not quick) and (thorough or not prop.thorough):
            yield prop
