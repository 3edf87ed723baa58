"""Lay one JSON value over another.

Files that extend one another, `--set` and the layers' choices all use this rule.

Objects merge, and other values replace. An object of another kind replaces the object beneath it completely, so that
parameters of two mechanisms never mix. The kind of a component is its name; the kind of a member of a discriminated union is
its discriminator. The default of a component's parameter, if it is a component too, lies beneath the given value.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Discriminator
from pydantic.fields import FieldInfo

from minigpt.registry.family import Family
from minigpt.registry.spec import Spec

Fields = Mapping[str, FieldInfo]


def lay_over(base: Mapping[str, Any], overlay: Mapping[str, Any], fields: Fields | None = None) -> dict[str, Any]:
    """Lay one object over another, key by key.

    Args:
        base: The object beneath.
        overlay: The object on top.
        fields: The types of its keys; None where they are not known.
    """
    result = dict(base)
    for key, value in overlay.items():
        field = (fields or {}).get(key)
        place = Place() if field is None else place_of(field)
        result[key] = merge(base[key] if key in base else _default_component(field, place), value, place)
    return result


@dataclass(frozen=True)
class Place:
    """The kinds of values that are allowed at one place of a document.

    Attributes:
        family: The family of the components that are allowed; None if none is.
        members: The classes whose objects are allowed.
        values: The annotation of the values of an object with any keys.
        discriminator: The key, or the function, that gives the member of an object.
        known: Whether the type of the place is known. If not, an object with a name counts as a component.
    """

    family: Family | None = None
    members: tuple[type, ...] = ()
    values: Any = None
    discriminator: str | Callable[[Any], Any] | None = None
    known: bool = False

    def kind(self, value: Mapping[str, Any]) -> Any:
        """The kind of an object; None if it names none, or if there is only one kind."""
        key = "name" if self.family or not self.known else self.discriminator
        if not callable(key):
            return None if key is None else value.get(key)
        try:
            return key(value)
        except Exception:  # a plugin's function, given an object that is not validated yet
            return None

    def fields(self, value: Mapping[str, Any]) -> Fields:
        """The types of an object's keys, as far as they are known."""
        if self.family is not None:
            name = value.get("name")
            params = self.family.params_of(self.family.name, name) if isinstance(name, str) else None
            return {} if params is None else params.model_fields
        if self.values is not None:
            return {key: FieldInfo.from_annotation(self.values) for key in value}
        kind = self.kind(value)
        models = [member for member in self.members if issubclass(member, BaseModel)]
        if len(self.members) > 1 and isinstance(self.discriminator, str):
            models = [model for model in models if kind in _literals(_annotations(model).get(self.discriminator))]
        return models[0].model_fields if len(models) == 1 else {}


def place_of(field: FieldInfo) -> Place:
    """The values that a parameter's type allows."""
    family, members, values, discriminator = None, [], None, field.discriminator
    for part in _alternatives(field.annotation, *field.metadata):
        if isinstance(part, Family):
            family = part
        elif isinstance(part, FieldInfo):
            discriminator = discriminator or part.discriminator
        elif isinstance(part, Discriminator):
            discriminator = part
        elif typing.get_origin(part) is dict:
            values = typing.get_args(part)[1]
        elif isinstance(part, type) and typing.get_origin(part) is None and part not in (Spec, type(None)):
            members.append(part)
    declared = discriminator.discriminator if isinstance(discriminator, Discriminator) else discriminator
    return Place(family, tuple(members), values, declared or _distinguishing_key(members), known=True)


def merge(base: Any, overlay: Any, place: Place | None = None) -> Any:
    """Lay one value inside an experiment over another.

    Args:
        base: The value beneath; None without one.
        overlay: The value on top.
        place: The kinds of values that are allowed there.
    """
    place = place or Place()
    if isinstance(base, str) and isinstance(overlay, dict):
        base = {"name": str(base)}  # a component in its short form
    if isinstance(base, dict) and "name" in base and isinstance(overlay, str):
        overlay = {"name": str(overlay)}
    if not isinstance(overlay, dict):
        return overlay
    base = base if isinstance(base, dict) else {}
    before = place.kind(base) if base else None
    together = {**base, **overlay}
    if before is not None and place.kind(together) != before:
        base, together = {}, overlay
    return lay_over(base, overlay, place.fields(together))


def _default_component(field: FieldInfo | None, place: Place) -> Any:
    """A parameter's default as it would stand in the JSON, where it is a component; None where it is not."""
    if field is None or place.family is None or field.is_required():
        return None
    default = field.default
    if isinstance(default, Spec):
        return default.to_json()
    return {"name": default} if isinstance(default, str) else default


def _alternatives(annotation: Any, *metadata: Any) -> Iterator[Any]:
    """The members of the unions in an annotation, and the metadata of `Annotated` beside them."""
    yield from metadata
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _alternatives(arguments[0], *arguments[1:])
    elif origin in (typing.Union, types.UnionType):
        for part in arguments:
            yield from _alternatives(part)
    else:
        yield annotation


def _distinguishing_key(members: list[type]) -> str | None:
    """The key that distinguishes a union's members, if none is declared: a literal, different in each."""
    annotations = [_annotations(member) for member in members]
    for key in annotations[0] if len(members) > 1 else ():
        literals = [_literals(each.get(key)) for each in annotations]
        if all(literals) and len({repr(value) for each in literals for value in each}) == sum(map(len, literals)):
            return key
    return None


def _annotations(cls: type) -> Mapping[str, Any]:
    if issubclass(cls, BaseModel):
        return {key: field.annotation for key, field in cls.model_fields.items()}
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError):
        return {}


def _literals(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if typing.get_origin(annotation) is typing.Literal else ()
