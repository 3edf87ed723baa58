"""Parameter types in JSON: values are read strictly, and a written value is read back equal."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any

import annotated_types
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, Strict, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError, core_schema
from typing_extensions import TypeAliasType

from minigpt.registry.family import Family
from minigpt.registry.paths import PathMark
from minigpt.registry.spec import as_json

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class JsonType:
    """Marks a type whose values are read from JSON text: a tuple is a list there, and a path is text.

    Attributes:
        annotation: The type.
    """

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation

    def read(self, value: Any) -> Any:
        """Read a value of this type from JSON, or check a Python value by writing and reading it.

        Raises:
            ValidationError: It is not of this type.
            ValueError: It cannot be written as JSON, or another value comes back.
        """
        written = _written(value)
        result = self._from(written)
        again = self._from(_written(result))
        if again != result or (written != value and result != value):
            text = json.dumps(written, ensure_ascii=False)
            raise ValueError(f"{value!r} is written to JSON as {text} and read back as {again!r}; choose another type")
        return result

    def check(self) -> None:
        """Check that JSON can represent values of this type.

        Raises:
            ValueError: It cannot.
        """
        try:
            self._adapter.json_schema()
        except PydanticUserError as error:
            raise ValueError(
                f"JSON has no values of its type {inspect.formatannotation(self.annotation)}; choose another type"
            ) from error

    def _from(self, written: Any) -> Any:
        return self._adapter.validate_json(json.dumps(written))

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        # A type alias, because pydantic accepts no separate configuration for a class that has one.
        named: Any = TypeAliasType("Value", self.annotation)
        return TypeAdapter(named, config=_STRICT)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_wrap_validator_function(lambda value, _: self.read(value), handler(source))


def json_type(annotation: Any) -> Any:
    """The annotation, with every type marked whose Python values differ from those of JSON."""
    if _is_plain(annotation):
        return annotation
    if not has_component(annotation):
        return Annotated[annotation, JsonType(annotation)]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _annotated(json_type(arguments[0]), arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(json_type, arguments))]  # noqa: UP007 - made at run time
    if origin is dict:
        return origin[Annotated[arguments[0], Strict(False)], json_type(arguments[1])]
    if origin is None:
        return annotation
    parts = origin[tuple(part if part is ... else json_type(part) for part in arguments)]
    return parts if origin is list else Annotated[parts, Strict(False)]


def is_mixed(field: FieldInfo) -> bool:
    """Whether a parameter has components inside of a type that JSON lacks, such as a class or a tuple."""
    annotation = _annotated(field.annotation, field.metadata)
    return has_component(annotation) and not _is_plain(annotation)


def comes_back(params: type[BaseModel], values: Mapping[str, Any], among: Collection[str]) -> bool:
    """Whether the parameters named in `among` are equal after writing to JSON and reading again."""
    if not among:
        return True
    try:
        written = {key: json.loads(json.dumps(_written(value))) for key, value in values.items()}
        again = params.model_validate(written)
    except ValueError:
        return False
    return all(getattr(again, key) == values[key] for key in among)


def _written(value: Any) -> Any:
    try:
        written = as_json(value)
        json.dumps(written, allow_nan=False)
    except (PydanticSerializationError, TypeError, ValueError, AttributeError) as error:
        if isinstance(value, float):
            return value  # infinite or NaN: validation reports the allowed numbers
        raise ValueError(f"{value!r} cannot be written as JSON; choose another type") from error
    return written


def _annotated(annotation: Any, metadata: Iterable[Any]) -> Any:
    for part in metadata:
        annotation = Annotated[annotation, part]
    return annotation


def _is_harmless(metadata: Any) -> bool:
    """Whether metadata of `Annotated` leaves the value unchanged: bounds and marks do, functions may not."""
    known = (FieldInfo, annotated_types.BaseMetadata, annotated_types.GroupedMetadata, PathMark)
    return isinstance(metadata, known)


def _is_plain(annotation: Any) -> bool:
    """Whether Python's values of a type are those of JSON, or components."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        if any(isinstance(part, Family) for part in arguments[1:]):
            return True
        return _is_plain(arguments[0]) and all(map(_is_harmless, arguments[1:]))
    if origin in (typing.Union, types.UnionType, list):
        return all(map(_is_plain, arguments))
    if origin is dict:
        return arguments[0] is str and _is_plain(arguments[1])
    if origin is typing.Literal:
        return all(type(value) in (str, int, bool, type(None)) for value in arguments)
    return annotation in (bool, int, float, str, None, type(None))


def has_component(annotation: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether components may stand anywhere inside of a type, the fields of its classes included."""
    if isinstance(annotation, Family):
        return True
    inside: list[Any] = [*typing.get_args(annotation), *getattr(annotation, "__metadata__", ())]
    if isinstance(annotation, type) and annotation not in seen:
        if issubclass(annotation, BaseModel):
            inside = [part for field in annotation.model_fields.values() for part in (field.annotation, *field.metadata)]
        elif dataclasses.is_dataclass(annotation):
            inside = list(typing.get_type_hints(annotation, include_extras=True).values())
    return any(has_component(part, seen | {annotation} if isinstance(annotation, type) else seen) for part in inside)
