"""A property: its statement, its test cases, and the search for the smallest failing case."""

from __future__ import annotations

import contextlib
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
    """Raised when a component breaks a property.

    Args:
        message: The observation, in a sentence that names the position.
        cause: The usual cause, as a question.
        at: The index of the token, row or step where it shows; None if there is no index.
        size: The difference, relative to the expected value; None if there is no measure.
    """

    def __init__(self, message: str, *, cause: str, at: int | None = None, size: float | None = None):
        super().__init__(message)
        self.message, self.at, self.size, self.cause = message, at, size, cause


class NotTried(Exception):
    """Raised when a property does not apply or cannot be checked on this machine; the message says why."""


class Unsuitable(Exception):
    """Raised when a component rightly refuses a case, such as an odd width for a rotation in pairs."""


class _OtherCase(Exception):
    """Raised from a failure in another case than the property received."""

    def __init__(self, error: Exception, case: Any):
        super().__init__()
        self.error, self.case = error, case


@contextlib.contextmanager
def trying(case: object) -> Iterator[None]:
    """Report a failure inside with this case, if a property tries several, with other parameters, for example."""
    try:
        yield
    except (NotTried, Unsuitable, TrustError):
        raise
    except Exception as error:  # any exception of a component breaks the property
        raise _OtherCase(error, case) from error


@dataclass(frozen=True)
class Failure:
    """How a component breaks a property.

    Attributes:
        message: The observation.
        example: The smallest failing case found.
        at: The index of the token, row or step where it shows.
        size: The relative difference.
        cause: The usual cause.
    """

    message: str
    example: dict[str, Any]
    at: int | None = None
    size: float | None = None
    cause: str = ""


@dataclass(frozen=True)
class Result:
    """The result of checking one property.

    Attributes:
        property: The property's name.
        says: The property in one sentence.
        verdict: pass, fail, or skip if it could not be checked.
        tried: Number of cases it was checked on.
        note: Which cases were not checked, and why.
        seconds: Time taken.
        failure: The failure; None unless the verdict is fail.
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
    """A requirement for every component of certain families.

    Attributes:
        name: Its name, one word.
        says: The requirement, in one sentence.
        families: The families it applies to.
        quick: Number of first cases in the quick part, at least one in eval mode and one in train mode; 0 excludes the
            property from the quick part.
        thorough: Whether it is so slow that it runs only for a few components at a time.
        cases: Returns the fixed cases in the order of checking; they do not depend on the seed.
        strategy: Returns a strategy for random cases, which are shrunk if they fail. None if there are only fixed cases.
        test: Checks one case and raises Violation if it fails.
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
    """Register a test function as a property; its name and docstring become `name` and `says`."""

    def decorate(test: Callable[[Target, C], None]) -> Callable[[Target, C], None]:
        says = " ".join((test.__doc__ or "").split("\n\n")[0].split())
        SUITE.append(Property(test.__name__, says, frozenset(families), quick, thorough, cases, strategy, test))
        return test

    return decorate


@dataclass
class _Trial(Generic[C]):
    """The check of one property on one target; counts the cases that were not refused."""

    property: Property[C]
    target: Target
    reasons: Callable[[Target, C], None]
    tried: int = 0
    refused: list[str] = field(default_factory=list)

    def example(self, case: C) -> dict[str, Any]:
        """Return the case as JSON, without fields that do not affect this target."""
        shown = getattr(case, "shown", None)
        names = [field.name for field in dataclasses.fields(case)] if shown is None else shown(self.target)  # type: ignore[arg-type]
        return dict(to_jsonable_python({name: _without_specs(getattr(case, name)) for name in names}))

    def failure_of(self, case: C) -> Failure | None:
        """Return the failure of this case, or None if the case passes or is refused."""
        try:
            failed = self._failed(self.property.test, case)
        except Unsuitable as refusal:
            self.refused.append(str(refusal))
            return None
        self.tried += 1
        if failed is None:
            return None
        error, case = failed
        with contextlib.suppress(Unsuitable):
            error, case = self._failed(self.reasons, case) or failed
        if isinstance(error, Violation):
            return Failure(error.message, self.example(case), error.at, error.size, error.cause)
        return Failure(_described(error), self.example(case), cause="does it support these sizes and parameters?")

    def _failed(self, test: Callable[[Target, C], None], case: C) -> tuple[Exception, C] | None:
        """Return what a test raises, and for which case; None if the case passes."""
        try:
            test(self.target, case)
        except (Unsuitable, NotTried, TrustError):  # TrustError: the plugin file was edited, so it is not what was checked
            raise
        except _OtherCase as other:
            return other.error, other.case
        except Exception as error:  # any exception of a component breaks the property
            return error, case
        return None


def no_reasons(target: Target, case: object) -> None:
    """Know no more basic reason for a failure."""


def run_property(
    prop: Property[C],
    target: Target,
    *,
    examples: int,
    seed: int,
    shrink: bool = True,
    reasons: Callable[[Target, C], None] = no_reasons,
) -> Result:
    """Check a property on a target.

    Args:
        prop: The property.
        target: The component or model.
        examples: Number of random cases after the fixed ones; 0 checks only the fixed cases of the quick part.
        seed: Seed of the random cases.
        shrink: Search for a smaller failing case.
        reasons: Raises the more basic reason for the failure of a case, if there is one: a Violation.
    """
    start = time.perf_counter()
    trial = _Trial(prop, target, reasons)
    try:
        failure = _search(trial, examples, seed, shrink)
    except NotTried as reason:
        return Result(prop.name, prop.says, "skip", 0, str(reason), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    if failure is not None:
        return Result(prop.name, prop.says, "fail", trial.tried, "", seconds, failure)
    if not trial.tried:
        reason_to_skip = trial.refused[0] if trial.refused else "there was nothing to try it on"
        return Result(prop.name, prop.says, "skip", 0, reason_to_skip, seconds)
    # Without a strategy, each case covers something different (a parameter, for example), so refused cases are reported.
    note = "; ".join(dict.fromkeys(trial.refused)) if prop.strategy is None else ""
    return Result(prop.name, prop.says, "pass", trial.tried, note, seconds)


def failure_in(prop: Property[C], target: Target, case: C) -> Failure | None:
    """Return the failure of one case, or None if the property holds.

    Raises:
        NotTried: The property does not apply, or cannot be checked on this machine.
    """
    return _Trial(prop, target, no_reasons).failure_of(case)


def _search(trial: _Trial[C], examples: int, seed: int, shrink: bool) -> Failure | None:
    fixed = list(trial.property.cases(trial.target))
    for case in fixed if examples else fixed[: trial.property.quick]:
        failure = trial.failure_of(case)
        if failure is not None:
            return (_smallest(trial, 60, seed, shrink) if shrink else None) or failure
    return _smallest(trial, examples, seed, shrink) if examples else None


def _smallest(trial: _Trial[C], examples: int, seed: int, shrink: bool) -> Failure | None:
    """Return the smallest failing random case, or None if no case fails."""
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
    deadline = time.monotonic() + 20  # shrinking stops then, with the smallest case so far

    def fails(case: C) -> bool:
        if failures and time.monotonic() > deadline:
            return False
        try:
            failure = trial.failure_of(case)
        except NotTried:
            return False  # it may concern only this case
        failures.extend([failure] if failure else [])
        return failure is not None

    tried = trial.tried
    try:
        hypothesis.find(trial.property.strategy(trial.target), fails, settings=settings, random=random.Random(seed))
    except NoSuchExample:
        return None
    except Flaky:  # a component that remembers earlier passes fails differently next time; the observed failure counts
        pass
    trial.tried = max(tried, 1)
    return failures[-1]


def _without_specs(value: Any) -> Any:
    """Replace specs in a value by their JSON."""
    if isinstance(value, Spec):
        return value.to_json()
    if isinstance(value, dict):
        return {key: _without_specs(item) for key, item in value.items()}
    return value


def _described(error: Exception) -> str:
    """Describe an exception: `raises ValueError: message (plugin FILE, line N)`."""
    place = plugins.last_place(error)
    if place is None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename}, line {frame.lineno}"
    message = str(error).strip().splitlines()
    return f"raises {type(error).__name__}: {message[0] if message else ''} ({place})"


def properties_for(family: str, *, quick: bool = False, thorough: bool = True) -> Iterator[Property[Any]]:
    """Yield the properties of a family: all, only the quick ones, or all but the thorough ones."""
    for prop in SUITE:
        if family in prop.families and (prop.quick or not quick) and (thorough or not prop.thorough):
            yield prop
