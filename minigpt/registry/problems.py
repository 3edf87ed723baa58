"""Turn pydantic's validation errors into messages.

Each has the path, the found value, the allowed values, the nearest name and a next step.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from minigpt.errors import Problem, listing, nearest

_ALLOWED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of ordinary size",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text in quotes",
    "list_type": "a list in [ ]",
    "tuple_type": "a list in [ ]",
    "dict_type": "an object in { }",
    "dataclass_type": "an object in { }",
    "model_type": "an object in { }",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
    "multiple_of": ("multiple_of", "a multiple of"),
    "too_short": ("min_length", "at least this many items:"),
    "too_long": ("max_length", "at most this many items:"),
}


def quote(value: Any) -> str:
    """A wrong value as JSON, abbreviated, with its JSON type: the `found` of a message."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    if len(text) > 60:
        text = text[:57] + "..."
    kinds = {bool: "true/false", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    kind = next((word for type_, word in kinds.items() if isinstance(value, type_)), None)
    return f"{text} ({kind})" if kind else text


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Flatten a validation error of `model`, including nested components, into problems with paths."""
    problems: list[Problem] = []
    for item in error.errors(include_url=False):
        path = _without_alternatives(tuple(item["loc"]), model)
        if item["type"] == "component":
            problems += [problem.under(*path) for problem in item["ctx"]["problems"]]
        else:
            problems.append(Problem(path, _sentence({**item, "loc": path}, model)))
    return _joined(problems)


_ALTERNATIVE = re.compile(
    r"constrained-\w+|(function-\w+|literal|list|tuple|dict|set|frozenset|nullable)\[.*\]|float|int|str|bool|none"
)
"""What pydantic writes into a path for the alternative of a union that was tried, unless it is the name of a class."""


def _without_alternatives(path: tuple[str | int, ...], model: type[BaseModel]) -> tuple[str | int, ...]:
    """A path without the alternatives of unions that pydantic tried."""
    kept: list[str | int] = []
    current: type | None = model
    for step in path:
        fields = {} if current is None else _fields(current)
        if step in fields:
            current = _class_in(fields[str(step)])
        elif isinstance(step, str) and (_ALTERNATIVE.fullmatch(step) or (current is not None and step == current.__name__)):
            continue
        kept.append(step)
    return tuple(kept)


def _joined(problems: list[Problem]) -> list[Problem]:
    """One problem for each path and value, with the allowed values of all alternatives."""
    joined: dict[tuple[object, ...], Problem] = {}
    for problem in problems:
        found, allowed, rest = problem.text.partition("; allowed: ")
        known = joined.get((problem.path, found)) if allowed else None
        key = (problem.path, found) if allowed else (problem.path, problem.text)
        joined[key] = problem if known is None or rest in known.text else Problem(problem.path, f"{known.text}, or {rest}")
    return list(joined.values())


def _sentence(item: dict[str, Any], model: type[BaseModel]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        name = str(item["loc"][-1])
        keys = _keys_at(model, item["loc"][:-1])
        return f'unknown key "{name}"; allowed: {listing(keys)}{nearest(name, keys)}'
    if kind == "missing":
        return "is required and has no default"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        value = item["input"]
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        hint = nearest(value, choices) if isinstance(value, str) else ""
        return f"found {quote(value)}; allowed: {context['expected']}{hint}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"found {quote(item['input'])}; allowed: {words} {context[key]}"
    if kind == "string_pattern_mismatch":
        return f"found {quote(item['input'])}; allowed: text that matches {context['pattern']}"
    allowed = _ALLOWED.get(kind, item["msg"][:1].lower() + item["msg"][1:])
    return f"found {quote(item['input'])}; allowed: {allowed}"


def _keys_at(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that the object at `path` may have."""
    current: type | None = model
    for step in path:
        if isinstance(step, str) and current is not None:
            current = _class_in(_fields(current).get(step))
    return [] if current is None else [*_fields(current), *getattr(current, "file_keys", ())]


def _fields(cls: type) -> Mapping[str, Any]:
    """The annotations of a model's or dataclass's fields."""
    if issubclass(cls, BaseModel):
        return {name: field.annotation for name, field in cls.model_fields.items()}
    return typing.get_type_hints(cls)


def _class_in(annotation: Any) -> type | None:
    """The pydantic model, or dataclass, inside `Section`, `list[Section]` or `Section | None`."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        return annotation
    return next((cls for part in typing.get_args(annotation) if (cls := _class_in(part))), None)


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a record, for its one-line message: `segments.0.from_update: Input should be …`."""
    first = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
