"""Values to try for a component's parameters, derived from its schema."""

from __future__ import annotations

import enum
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt, MinLen
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from minigpt.check.targets import Target
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY, Family, Spec
from minigpt.registry.entry import Entry

_FOLDER = tempfile.TemporaryDirectory(prefix="minigpt-check-")  # deleted when the process ends
_MAX_VALUES = 6
"""Largest number of values to try for one parameter."""


def parameter_sets(target: Target) -> list[dict[str, Any]]:
    """Return the defaults, then sets with one parameter changed each."""
    if target.entry is None:
        return [{}]
    base = required(target.entry)
    changed = [
        {**base, name: value}
        for name, values in alternatives(target.entry).items()
        for value in values[:1]
        if _is_allowed(target.entry, {**base, name: value})
    ]
    return [base, *changed]


def further_choices(target: Target) -> list[dict[str, Any]]:
    """Return sets with one parameter changed to a further value that is neither a number nor a component."""
    assert target.entry is not None
    base = required(target.entry)
    further = [(name, {**base, name: value}) for name, values in alternatives(target.entry).items() for value in values[1:]]
    return [
        params
        for name, params in further
        if _is_allowed(target.entry, params) and not isinstance(target.entry.validate(params)[name], int | float | Spec)
    ]


def parameters(target: Target) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for any parameters; the defaults are the simplest."""
    if target.entry is None:
        return st.just({})
    entry, base = target.entry, required(target.entry)
    optional = {name: st.sampled_from(values) for name, values in alternatives(entry).items() if values}
    return st.fixed_dictionaries({}, optional=optional).map(lambda some: {**base, **some})


def required(entry: Entry) -> dict[str, Any]:
    """Return a value for each parameter without a default."""
    return {name: values[0] for name, values in alternatives(entry).items() if _is_required(entry, name) and values}


def _is_required(entry: Entry, name: str) -> bool:
    return entry.params.model_fields[name].is_required()


@cache
def _by_type(params: type[BaseModel]) -> dict[str, list[Any]]:
    return {name: list(_values(field)) for name, field in params.model_fields.items()}


def alternatives(entry: Entry) -> dict[str, list[Any]]:
    """Return for each parameter the allowed values other than its default; empty if none is known.

    `Field(examples=[...])` in the annotation comes first, because the author chose those values.
    """
    typed = _by_type(entry.params)
    base = {name: values[0] for name, values in typed.items() if _is_required(entry, name) and values}
    allowed: dict[str, list[Any]] = {}
    for name, values in typed.items():
        if name in entry.path_params:
            values = [_as_type(entry.params.model_fields[name].annotation, str(file)) for file in _example_paths()]
        rest = {key: value for key, value in base.items() if key not in entry.path_params}
        rest |= {key: allowed[key][0] for key in base if key in entry.path_params and allowed.get(key)}
        allowed[name] = [value for value in values if _is_valid(entry, {**rest, name: value}, name)]
    return allowed


def _is_valid(entry: Entry, params: Mapping[str, Any], name: str) -> bool:
    """Return whether the schema accepts this value, even if other parameters are missing."""
    try:
        entry.validate(params)
    except ExperimentError as error:
        return not any(problem.path[:1] == (name,) for problem in error.problems)
    return True


def _is_allowed(entry: Entry, params: Mapping[str, Any]) -> bool:
    try:
        entry.validate(params)
    except ExperimentError:
        return False
    return True


@cache
def _example_paths() -> list[Path]:
    """Return a text file, and its folder, which also contains a file that is not UTF-8."""
    files = {"squares.txt": "{0} times {0} is {1}.\n", "squares.md": "The square of {0} is {1}.\n"}
    for name, line in files.items():
        text = "".join(line.format(number, number * number) for number in range(2000))
        (Path(_FOLDER.name) / name).write_bytes(text.encode() + (b"\xff" if name.endswith(".md") else b""))
    return [Path(_FOLDER.name) / "squares.txt", Path(_FOLDER.name)]


def _as_type(annotation: Any, path: str) -> Any:
    return [path] if typing.get_origin(annotation) in (list, tuple) else path


def _values(field: FieldInfo) -> Iterator[Any]:
    """Yield at most `_MAX_VALUES` JSON values for one parameter, without its default."""
    default = field.default.to_json() if isinstance(field.default, Spec) else field.default
    default = default.value if isinstance(default, enum.Enum) else default
    seen: list[Any] = [] if default is PydanticUndefined else [default]
    for value in [*(field.examples or ()), *_of_type(field.annotation, field.metadata, default)]:
        if not any(type(value) is type(other) and value == other for other in seen) and not _is_name_of(value, default):
            seen.append(value)
            yield value
            if len(seen) > _MAX_VALUES:
                return


def _is_name_of(value: Any, default: Any) -> bool:
    """Return whether the value is the name of the default component."""
    return isinstance(default, dict) and isinstance(value, str) and default.get("name") == value


def _of_type(annotation: Any, metadata: Iterable[Any], default: Any) -> Iterator[Any]:
    metadata = list(metadata)
    family = next((part for part in metadata if isinstance(part, Family)), None)
    if family is not None:
        yield from _components(family)
        return
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _examples(arguments[1:])
        yield from _of_type(arguments[0], [*arguments[1:], *metadata], default)
    elif origin in (typing.Union, types.UnionType):
        for inner in arguments:
            yield from _of_type(inner, metadata, default)
    elif origin is typing.Literal:
        yield from arguments
    elif annotation is type(None):
        yield None
    elif annotation is bool:
        yield from (True, False)
    elif annotation is int:
        yield from (number for number in _integers(default) if _in_bounds(number, metadata))
    elif annotation is float:
        yield from (number for number in _floats(default) if _in_bounds(number, metadata))
    elif annotation is str:
        yield from ("a", "two words")
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        yield from (member.value for member in annotation)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _objects(annotation)
    elif origin in (tuple, list):
        yield from _lists(origin, arguments, metadata, default)


def _examples(metadata: Iterable[Any]) -> Iterator[Any]:
    for part in metadata:
        yield from (part.examples or ()) if isinstance(part, FieldInfo) else ()


def _components(family: Family) -> list[str]:
    entries = REGISTRY.entries(family.name)
    return [entry.name for entry in entries if not any(f.is_required() for f in entry.params.model_fields.values())]


def _integers(default: Any) -> list[int]:
    near = [2 * default, default // 2, default + 1, default - 1] if type(default) is int else []
    return [2, 1, *near, 4, 3, 8, 0, 16]


def _floats(default: Any) -> list[float]:
    near = [1.5 * default, 0.5 * default] if type(default) in (int, float) and default else []
    return [*near, 0.5, 1.0, 2.0, 0.1, 0.0, 0.01, 10.0, 1000.0]


def _in_bounds(number: float, metadata: Iterable[Any]) -> bool:
    bounds = [inner for part in metadata for inner in (part.metadata if isinstance(part, FieldInfo) else [part])]
    return all(
        (not isinstance(bound, Gt) or number > bound.gt)  # type: ignore[operator]
        and (not isinstance(bound, Ge) or number >= bound.ge)  # type: ignore[operator]
        and (not isinstance(bound, Lt) or number < bound.lt)  # type: ignore[operator]
        and (not isinstance(bound, Le) or number <= bound.le)  # type: ignore[operator]
        for bound in bounds
    )


def _objects(model: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """Yield two objects with different values in the required fields."""
    choices = {name: list(_of_type(f.annotation, f.metadata, f.default)) for name, f in model.model_fields.items()}
    needed = [name for name, f in model.model_fields.items() if f.is_required()]
    if any(not choices[name] for name in needed):
        return
    for which in (0, 1):
        yield {name: choices[name][min(which, len(choices[name]) - 1)] for name in needed}


def _lists(origin: Any, arguments: tuple[Any, ...], metadata: list[Any], default: Any) -> Iterator[list[Any]]:
    """Yield the default with one element changed; for lists also one element shorter and longer."""
    elements = list(default) if isinstance(default, list | tuple) else []
    for place, element in enumerate(elements):
        kind = arguments[min(place, len(arguments) - 1)] if arguments[-1:] != (...,) else arguments[0]
        others = [other for other in _of_type(kind, [], element) if other != element]
        yield from ([*elements[:place], other, *elements[place + 1 :]] for other in others[:2])
    if origin is list or arguments[-1:] == (...,):
        least = max((part.min_length for part in metadata if isinstance(part, MinLen)), default=0)
        new = next(iter(_of_type(arguments[0], [], None)), None) if arguments else None
        yield from ([*elements[:-1]] for _ in elements[:1] if len(elements) > least)
        if new is not None:
            yield [*elements, new]
    elif not elements:
        firsts = [next(iter(_of_type(kind, [], None)), None) for kind in arguments]
        if all(first is not None for first in firsts):
            yield firsts
