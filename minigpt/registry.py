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
import inspect
import json
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, create_model
from pydantic_core import PydanticCustomError, core_schema, to_jsonable_python

from minigpt.errors import ExperimentError, Problem, RegistryError, json_path, listing, nearest
from minigpt.problems import found, problems_of

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Spec(Generic[T_co]):
    """A component chosen by name, its parameters validated and complete.

    Attributes:
        family: Such as `attention`.
        name: Such as `gqa`.
        params: Every keyword argument of its constructor, defaults filled in, nested components as Specs.
        where: Path in the experiment, for error messages.
    """

    family: str
    name: str
    params: Mapping[str, Any]
    where: str = field(default="", compare=False)

    def build(self, *received: Any) -> T_co:
        """Construct the component; `received` is what its family hands over (`dims`, a width, …).

        Raises:
            ExperimentError: The constructor refused the combination with a ValueError.
        """
        try:
            return typing.cast(T_co, REGISTRY.entry(self.family, self.name).cls(*received, **self.params))
        except ValueError as error:
            raise ExperimentError([Problem((self.where or self.family,), f"{self.name}: {error}")]) from error

    def at(self, where: str) -> Spec[T_co]:
        """The same spec, told where in the experiment it and its nested components stand."""
        params = {
            key: value.at(f"{where}.{key}") if isinstance(value, Spec) else value for key, value in self.params.items()
        }
        return replace(self, params=params, where=where)

    def nested(self) -> Iterator[Spec[Any]]:
        """This spec and every component among its parameters, depth first."""
        yield self
        for value in self.params.values():
            if isinstance(value, Spec):
                yield from value.nested()

    def to_json(self) -> dict[str, Any]:
        """`{"name": ..., **params}`, as it would stand in an experiment file."""
        return {"name": self.name, **{key: _to_json(value) for key, value in self.params.items()}}


def _to_json(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_json()
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return to_jsonable_python(value)


class LocatedText(str):
    """Text read from a file: remembers the folder that relative paths in it start from."""

    __slots__ = ("folder",)
    folder: Path

    @classmethod
    def of(cls, text: str, folder: Path) -> LocatedText:
        """`text`, which stood in a file of `folder`."""
        located = cls(text)
        located.folder = folder
        return located


class _PathMark:
    """Marks a parameter as a path of the user's."""


UserPath = Annotated[str, _PathMark()]
"""Annotation for a path parameter: relative to the experiment file that says it, else to the working folder."""


@dataclass(frozen=True)
class Entry:
    """A registered component.

    Attributes:
        family: Name of its family.
        name: Its name in that family.
        cls: The class.
        params: Strict pydantic model of its keyword-only arguments.
        path_params: Those that hold paths of the user's.
        summary: First sentence of its docstring.
        descriptions: Parameter name to its line in the docstring.
        file: Source file of the class; None where it was typed into a console.
        line: Where the class begins there.
    """

    family: str
    name: str
    cls: type
    params: type[BaseModel]
    path_params: frozenset[str]
    summary: str
    descriptions: Mapping[str, str]
    file: Path | None
    line: int

    @property
    def place(self) -> str:
        """`file:line (Class)`, for messages."""
        where = f"{self.file}:{self.line}" if self.file else "typed in"
        return f"{where} ({self.cls.__qualname__})"

    def validate(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Check JSON parameters and fill in defaults.

        Raises:
            ExperimentError: Each wrong parameter, its path relative to this component.
        """
        located = {key: _absolute(value) if key in self.path_params else value for key, value in raw.items()}
        try:
            document = json.dumps(located, default=_to_json)
            parsed = self.params.model_validate_json(document)
        except ValidationError as error:
            raise ExperimentError(problems_of(error, self.params)) from error
        except (TypeError, ValueError) as error:
            raise ExperimentError([Problem((), f"parameters must be JSON values: {error}")]) from error
        return {key: getattr(parsed, key) for key in self.params.model_fields}


def _absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    if isinstance(value, str):
        return os.path.normpath(getattr(value, "folder", Path.cwd()) / Path(value).expanduser())
    return value


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
        """Declare a family; contracts.py declares them all."""
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
            raise RegistryError(f'unknown family "{name}"; known: {listing(self._families)}{nearest(name, self._families)}')
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
            entry = _entry_of(self.family(family), name, cls)
            taken = self._entries[family].get(name)
            if taken:
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
            raise RegistryError("; ".join([text, *hints]))
        return known[name]

    def entries(self, family: str) -> list[Entry]:
        """All components of a family, sorted by name."""
        self.family(family)
        return sorted(self._entries[family].values(), key=lambda entry: entry.name)

    def remove(self, entry: Entry) -> None:
        """Forget a component (a plugin file that is read again after an edit)."""
        self._entries[entry.family].pop(entry.name, None)

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
        return Spec(family, entry.name, entry.validate({key: item for key, item in value.items() if key != "name"}))

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


def _entry_of(family: Family, name: str, cls: type) -> Entry:
    """Check a class against its family and read its schema from its constructor."""
    place = f"{cls.__qualname__} ({cls.__module__})"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise RegistryError(f'{place}: the name "{name}" must be lower-case letters, digits, ".", "_" or "-"')
    if not issubclass(cls, family.base):
        raise RegistryError(
            f"{place}: {family.name} components inherit from {family.base.__module__}.{family.base.__qualname__}"
        )
    missing: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
    if missing:
        raise RegistryError(f"{place}: the {family.name} contract also needs {listing(missing)}")
    _check_methods(family, cls, place)
    params, path_params, descriptions = _params_of(family, name, cls, place)
    doc = inspect.getdoc(cls) if cls.__doc__ else None
    summary = " ".join((doc or "").split("\n\n")[0].split())
    return Entry(family.name, name, cls, params, path_params, summary, descriptions, source_file(cls), _line(cls))


def source_file(cls: type) -> Path | None:
    """The file a class stands in; None for one that was typed into a console."""
    try:
        file = inspect.getsourcefile(cls)
    except (OSError, TypeError):
        return None
    return Path(file) if file and Path(file).is_file() else None


def _line(cls: type) -> int:
    try:
        return inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return 0


def _check_methods(family: Family, cls: type, place: str) -> None:
    """Every method of the contract must accept what the contract's own accepts."""
    contract = [kind for kind in family.base.__mro__ if kind.__module__ == family.base.__module__]
    methods = {name: member for kind in reversed(contract) for name, member in vars(kind).items()}
    for method, original in methods.items():
        if not inspect.isfunction(original) or method.startswith("_"):
            continue
        expected = inspect.signature(original)
        positional = [p for p in expected.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        keywords = {p.name: None for p in expected.parameters.values() if p.kind is p.KEYWORD_ONLY}
        try:
            inspect.signature(getattr(cls, method)).bind(*positional, **keywords)
        except TypeError as error:
            raise RegistryError(
                f"{place}: {method}{inspect.signature(getattr(cls, method))} does not fit the {family.name} contract "
                f"{method}{expected}: {error}"
            ) from error


def _params_of(family: Family, name: str, cls: type, place: str) -> tuple[type[BaseModel], frozenset[str], dict[str, str]]:
    constructor: Any = inspect.getattr_static(cls, "__init__")
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    if constructor is object.__init__ or not parameters:
        parameters = []
    received = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if tuple(received) != family.receives or any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        wanted = ", ".join(("self", *family.receives, "*", "..."))
        raise RegistryError(
            f"{place}: a {family.name} constructor is __init__({wanted}): parameters are keyword-only, no **kwargs"
        )
    keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    try:
        hints = typing.get_type_hints(constructor, include_extras=True) if keyword else {}
    except NameError as error:
        raise RegistryError(f"{place}: an annotation of __init__ cannot be read: {error}; import it at run time") from error
    descriptions = _args_in(inspect.getdoc(cls) or "")
    fields: dict[str, Any] = {}
    for p in keyword:
        if p.name == "name" or p.name.startswith("_") or hasattr(BaseModel, p.name):
            raise RegistryError(f'{place}: the parameter name "{p.name}" is reserved; choose another')
        if p.name not in hints:
            raise RegistryError(f'{place}: annotate the parameter "{p.name}": its type is its schema')
        default = ... if p.default is p.empty else p.default
        fields[p.name] = (hints[p.name], Field(default=default, description=descriptions.get(p.name)))
    config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, validate_default=True, arbitrary_types_allowed=True
    )
    try:
        params = create_model(f"{family.name}.{name}", __config__=config, **fields)
    except Exception as error:  # pydantic's errors for impossible annotations share no base class
        raise RegistryError(f"{place}: the constructor's annotations make no schema: {error}") from error
    path_params = frozenset(p.name for p in keyword if _mentions_path(hints[p.name]))
    return params, path_params, descriptions


def _mentions_path(annotation: Any) -> bool:
    metadata = getattr(annotation, "__metadata__", ())
    return any(isinstance(item, _PathMark) for item in metadata) or any(map(_mentions_path, typing.get_args(annotation)))


def _args_in(doc: str) -> dict[str, str]:
    """Parameter descriptions from the `Args:` section of a Google-style docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    if not section:
        return {}
    found_args = re.findall(r"^ {4}(\w+):\s*(.*(?:\n {5,}.*)*)", section[1], re.MULTILINE)
    return {key: " ".join(text.split()) for key, text in found_args}


REGISTRY = Registry()
register = REGISTRY.register

__all__ = ["REGISTRY", "Entry", "Family", "LocatedText", "Registry", "Spec", "UserPath", "json_path", "register"]
