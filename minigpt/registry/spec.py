"""A component chosen by name, with its parameters: what an experiment is made of."""

from __future__ import annotations

import dataclasses
import inspect
import json
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from minigpt.errors import ExperimentError, Problem

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Spec(Generic[T_co]):
    """A component chosen by name, its parameters validated and complete.

    Attributes:
        family: Such as `attention`.
        name: Such as `gqa`.
        params: Every keyword argument of its constructor, defaults filled in, nested components as Specs.
        cls: The class of that name when the spec was made: a plugin that is edited later does not change it.
        where: Path in the experiment, for error messages; empty outside of an experiment.
    """

    family: str
    name: str
    params: Mapping[str, Any]
    cls: type[T_co] = field(compare=False, repr=False)
    where: str = field(default="", compare=False)

    def build(self, *received: Any) -> T_co:
        """Construct the component; `received` is what its family hands over (`dims`, a width, …).

        Raises:
            ExperimentError: The constructor raised a ValueError, or a plugin's constructor raised any error.
        """
        with self.errors_located():
            return self.cls(*received, **self.params)

    @contextmanager
    def errors_located(self) -> Iterator[None]:
        """Give an error of the component its path in the experiment.

        Raises:
            ExperimentError: A ValueError was raised inside, or a plugin raised any error.
        """
        try:
            yield
        except ExperimentError:
            raise
        except ValueError as error:
            raise ExperimentError([Problem((self.where or self.family,), f"{self.name}: {error}")]) from error
        except Exception as error:  # a plugin may raise anything; ours may not
            if is_shipped(self.cls):
                raise
            frames = traceback.extract_tb(error.__traceback__)
            own = str(source_file(self.cls))
            frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
            text = f"{self.name}: {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
            raise ExperimentError([Problem((self.where or self.family,), text)]) from error

    def nested(self) -> Iterator[Spec[Any]]:
        """This spec and every component among its parameters, depth first."""
        return (spec for _, spec in walk(self))

    def to_json(self) -> dict[str, Any]:
        """`{"name": ..., **params}`, as it would stand in an experiment file."""
        return {"name": self.name, **{key: as_json(value) for key, value in self.params.items()}}


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Spec[Any]]]:
    """Every component in a value with its path; a component comes before those nested in it.

    Args:
        value: A spec, a pydantic model, a dataclass, or a list, tuple or dict of these.
        path: The path of the value itself.
    """
    if isinstance(value, Spec):
        yield path, value
        value = value.params
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}[{index}]")
        return
    for key, item in _items(value):
        yield from walk(item, f"{path}.{key}" if path else str(key))


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, BaseModel):
        yield from ((key, getattr(value, key)) for key in type(value).model_fields)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))


def locate(value: Any, path: str) -> None:
    """Set `where` in every component of a validated value.

    Validation makes specs without paths.
    """
    for where, spec in walk(value, path):
        object.__setattr__(spec, "where", where)


def as_json(value: Any) -> Any:
    """A parameter as it would stand in an experiment file.

    Raises:
        PydanticSerializationError: JSON cannot represent it.
    """
    if isinstance(value, Spec):
        return value.to_json()
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(as_json, value), key=json.dumps)  # in an order that is the same in every process
    if isinstance(value, dict):
        return {next(iter(to_jsonable_python({key: None}))): as_json(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_json(getattr(value, each.name)) for each in dataclasses.fields(value)}
    return to_jsonable_python(value)


def is_shipped(cls: type) -> bool:
    """Whether a class is of this package, and not of a plugin."""
    return cls.__module__.startswith("minigpt.")


def source_file(cls: type) -> Path | None:
    """The source file of a class; None if the class was typed into a console."""
    try:
        file = inspect.getsourcefile(cls)
    except (OSError, TypeError):
        return None
    return Path(file) if file and Path(file).is_file() else None
