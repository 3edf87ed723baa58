"""Where components are found by name. A component's constructor is its schema.

    @register("norm", "rmsnorm")
    class RMSNorm(Norm):
        '''One line that says what it is (paper, arXiv number).

Args:
            eps: Added to the mean square before the root.
        '''

        def __init__(self, width: int, *, eps: Annotated[float, Field(gt=0)] = 1e-6): ...

What precedes the `*` is handed over by the lab and is the same for a whole family; keyword-only arguments are the JSON
parameters. From their annotations comes a strict pydantic model, from the docstring their descriptions. An argument
may itself be a component: annotate it with the alias of its family (`NormSpec`). This module does not import torch.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema, to_jsonable_python

from minigpt.entries import Entry, entry_of, is_shipped, source_file
from minigpt.errors import ExperimentError, Problem, RegistryError, listing, nearest
from minigpt.problems import found

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Spec(Generic[T_co]):
    """A component chosen by name, its parameters validated and complete.

    Attributes:
        family: Such as `attention`.
        name: Such as `gqa`.
        params: Every keyword argument of its constructor, defaults filled in, nested components as Specs.
        cls: The class of that name when the spec was made: a plugin that is edited later does not change it.
        where: Path in the experiment, for error messages.
    """

    family: str
    name: str
    params: Mapping[str, Any]
    cls: type[T_co] = field(compare=False, repr=False)
    where: str = field(default="", compare=False)

    def build(self, *received: Any) -> T_co:
        """Construct the component; `received` is what its family hands over (`dims`, a width, …).

        Raises:
            ExperimentError: The constructor refused the combination with a ValueError, or a plugin's failed otherwise.
        """
        try:
            return self.cls(*received, **self.params)
        except ExperimentError:
            raise
        except ValueError as error:
            raise ExperimentError([Problem((self.where or self.family,), f"{self.name}: {error}")]) from error
        except Exception as error:  # a stranger's constructor may raise anything; ours may not
            if is_shipped(self.cls):
                raise
            frames = traceback.extract_tb(error.__traceback__)
            own = str(source_file(self.cls))
            frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
            text = f"{self.name}: {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
            raise ExperimentError([Problem((self.where or self.family,), text)]) from error

    def at(self, where: str) -> Spec[T_co]:
        """The same spec, told where in the experiment it and its nested components stand."""
        return replace(self, params=_located_at(dict(self.params), where), where=where)

    def nested(self) -> Iterator[Spec[Any]]:
        """This spec and every component among its parameters, depth first."""
        yield self
        pending = list(self.params.values())
        while pending:
            value = pending.pop(0)
            if isinstance(value, Spec):
                yield from value.nested()
            elif isinstance(value, list | tuple | dict):
                pending += value.values() if isinstance(value, dict) else value

    def to_json(self) -> dict[str, Any]:
        """`{"name": ..., **params}`, as it would stand in an experiment file."""
        return {"name": self.name, **{key: _to_json(value) for key, value in self.params.items()}}


def _located_at(value: Any, where: str) -> Any:
    if isinstance(value, Spec):
        return value.at(where)
    if isinstance(value, dict):
        return {key: _located_at(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_located_at(item, f"{where}[{index}]") for index, item in enumerate(value))
    return value


def _to_json(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_json()
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_to_json, value), key=json.dumps)  # in an order that is the same in every process
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return to_jsonable_python(value)


@dataclass(frozen=True)
class Family:
    """A kind of component, and as `Annotated[Spec[Base], family]` the annotation of a parameter of that kind.

    Attributes:
        name: Such as `attention`.
        base: The contract that every component of it inherits.
        receives: Names of the positional arguments the lab hands to each constructor.
    """

    name: str
    base: type
    receives: tuple[str, ...]

    def _validate(self, value: Any) -> Spec[Any]:
        try:
            return REGISTRY.resolve(self.name, value)
        except ExperimentError as error:
            text = "\n".join(str(problem) for problem in error.problems)
            raise PydanticCustomError("component", "{text}", {"problems": error.problems, "text": text}) from error

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        to_json = core_schema.plain_serializer_function_ser_schema(lambda spec: spec.to_json())
        return core_schema.no_info_plain_validator_function(self._validate, serialization=to_json)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"x-family": self.name}  # `minigpt schema` puts the union of what is registered in its place


class Registry:
    """Families, and what is registered in each. There is one, `REGISTRY`."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._entries: dict[str, dict[str, Entry]] = {}
        self.unknown_hints: list[Callable[[str, str], str | None]] = []
        """Asked (family, name) for a next step when a name is unknown; plugins.py adds what it knows."""

    def add_family(self, name: str, base: type, receives: tuple[str, ...] = ()) -> Family:
        """Declare a family; contracts declares them all."""
        if name in self._families:
            raise RegistryError(f'the family "{name}" is declared already, for {self._families[name].base.__qualname__}')
        self._families[name] = Family(name, base, receives)
        self._entries[name] = {}
        return self._families[name]

    def family(self, name: str) -> Family:
        """Look up a family.

        Raises:
            RegistryError: There is none of that name.
        """
        if name not in self._families:
            homes = [family for family, entries in self._entries.items() if name in entries]
            hint = f'; "{name}" is of the family {homes[0]}' if homes else nearest(name, self._families)
            raise RegistryError(f'unknown family "{name}"; known: {listing(self._families)}{hint}')
        return self._families[name]

    def families(self) -> list[Family]:
        """All families, in the order of declaration."""
        return list(self._families.values())

    def register(self, family: str, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make a component known as `name` in `family`.

        Raises:
            RegistryError: The class does not keep the family's contract, or the name is taken.
        """

        def decorate(cls: type[T]) -> type[T]:
            entry = entry_of(self.family(family), name, cls)
            taken = self._entries[family].get(name)
            if taken and not _is_new_version(taken, entry):
                raise RegistryError(
                    f'{family} "{name}" is registered twice: by {taken.place} and by {entry.place}; rename one of them'
                )
            self._entries[family][name] = entry
            return cls

        return decorate

    def entry(self, family: str, name: str) -> Entry:
        """Look up a component.

        Raises:
            RegistryError: Unknown; the message names the nearest and the known ones, and where to find the missing one.
        """
        self.family(family)
        known = self._entries[family]
        if name not in known:
            hints = [hint for ask in self.unknown_hints if (hint := ask(family, name))]
            article = "an" if family[0] in "aeiou" else "a"
            text = f'"{name}" is not {article} {family} that is registered; known: {listing(known)}{nearest(name, known)}'
            raise RegistryError("; ".join([text, *(hints or ["a plugin's name needs its file: --plugin FILE"])]))
        return known[name]

    def entries(self, family: str) -> list[Entry]:
        """All components of a family, sorted by name."""
        self.family(family)
        return sorted(self._entries[family].values(), key=lambda entry: entry.name)

    def has(self, family: str, name: str) -> bool:
        """Whether a component is registered."""
        return name in self._entries.get(family, {})

    def remove(self, family: str, name: str) -> None:
        """Forget a component, if it is there (a plugin file that is read again after an edit)."""
        self._entries[family].pop(name, None)

    def resolve(self, family: str, value: Any) -> Spec[Any]:
        """Turn `"gqa"`, `{"name": "gqa", "n_kv_heads": 2}` or a Spec into a complete Spec.

        Raises:
            ExperimentError: Each problem with its path relative to the component.
        """
        if isinstance(value, Spec):
            value = value.to_json()
        if isinstance(value, str):
            value = {"name": str(value)}
        if not isinstance(value, dict):
            raise ExperimentError([Problem((), f'found {found(value)}; allowed: a name, or {{"name": ..., parameters}}')])
        name = value.get("name")
        if not isinstance(name, str):
            known = listing(self._entries[family])
            what = f"found {found(name)}; allowed: one of" if "name" in value else f"is required: which {family}? One of"
            raise ExperimentError([Problem(("name",), f"{what} {known}")])
        try:
            entry = self.entry(family, name)
        except RegistryError as error:
            raise ExperimentError([Problem((), str(error))]) from error
        params = entry.validate({key: item for key, item in value.items() if key != "name"})
        return Spec(family, entry.name, params, entry.cls)

    @contextlib.contextmanager
    def undo_on_error(self) -> Iterator[None]:
        """Whatever is registered inside is forgotten again if the block raises."""
        before = {family: dict(entries) for family, entries in self._entries.items()}
        try:
            yield
        except BaseException:
            self._entries = before
            raise

    @contextlib.contextmanager
    def temporarily(self) -> Iterator[None]:
        """Whatever is registered inside is forgotten at the end; for tests and notebooks."""
        before = {family: dict(entries) for family, entries in self._entries.items()}
        try:
            yield
        finally:
            self._entries = before


def _is_new_version(old: Entry, new: Entry) -> bool:
    """A notebook cell run again, or another version of the same plugin file (a run's own copy of it)."""
    before, after = (entry.cls.__module__.split(".") for entry in (old, new))
    if before == after == ["__main__"]:
        return old.cls.__qualname__ == new.cls.__qualname__
    # minigpt_plugins.NAME_DIGEST, and what follows inside of a package
    names = [parts[1].rpartition("_")[0] for parts in (before, after) if parts[0] == "minigpt_plugins" and len(parts) > 1]
    return len(names) == 2 and names[0] == names[1]


REGISTRY = Registry()
register = REGISTRY.register
