"""Repeats failing examples in a new process: does an example fail there, or did it need what ran before it?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from minigpt.check.properties.surroundings import Origin
from minigpt.check.property import Failure, NotTried, Property, Result, failure_in, properties_for
from minigpt.check.targets import Target
from minigpt.errors import MinigptError
from minigpt.system import child

_SECONDS = 60.0
"""Time for all examples of a component; without an answer by then, the failures are reported as they are."""


@dataclass(frozen=True)
class _Question:
    """Failing examples of a component.

    Attributes:
        origin: Where the component is found.
        examples: The example of each property, as JSON text: JSON may have lone surrogates, a file may not.
    """

    origin: Origin
    examples: dict[str, str]


def with_dependence(target: Target, results: tuple[Result, ...]) -> tuple[Result, ...]:
    """Return the results, in which a failure says so if its example holds when nothing ran before it."""
    quick_to_try = {prop.name for prop in properties_for(target.family, thorough=False)}
    failures = {
        result.property: result.failure
        for result in results
        if result.failure is not None and result.property in quick_to_try
    }
    holding = _holding_there(target, failures) if failures and target.entry is not None else []
    return tuple(
        replace(result, failure=_dependent(result.failure))
        if result.failure is not None and result.property in holding
        else result
        for result in results
    )


def _dependent(failure: Failure) -> Failure:
    return replace(
        failure,
        message=f"{failure.message}; in a new process this example holds, so the failure depends on earlier passes",
        cause=f"is something kept on the class, in the module or in a cache? is it chance? if not: {failure.cause}",
    )


def _holding_there(target: Target, failures: Mapping[str, Failure]) -> list[str]:
    """Return the properties whose examples hold in a new process."""
    origin = Origin.of(target)
    if origin is None:
        return []
    question = _Question(origin, {name: json.dumps(failure.example) for name, failure in failures.items()})
    try:
        answer = child.call(_tried_here, question, seconds=_SECONDS)
    except MinigptError:  # the failure was observed in this process, whatever the other one cannot load
        return []
    return [] if isinstance(answer, child.Exit) else answer


def _tried_here(question: _Question) -> list[str]:
    """Answer the question; runs in the other process."""
    target = question.origin.target()
    if target is None:
        return []
    properties = {prop.name: prop for prop in properties_for(target.family)}
    return [name for name, example in question.examples.items() if _holds(properties[name], target, json.loads(example))]


def _holds(prop: Property[Any], target: Target, example: Mapping[str, Any]) -> bool:
    """Return whether the property holds for an example, from which only fields without an effect are missing."""
    case = TypeAdapter(type(prop.cases(target)[0])).validate_python(example)
    try:
        return failure_in(prop, target, case) is None
    except NotTried:
        return False
