"""Registry entries: check a class against its family, and read its parameters from its constructor."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import time
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from minigpt.errors import ExperimentError, Problem, RegistryError, json_path, listing
from minigpt.registry.family import Family
from minigpt.registry.json_types import JsonType, comes_back, is_mixed, json_type
from minigpt.registry.overlay import lay_over
from minigpt.registry.paths import RunMark, absolute, mentions_path
from minigpt.registry.problems import problems_of
from minigpt.registry.spec import is_shipped, source_file


@dataclass(frozen=True)
class Entry:
    """A registered component.

    Attributes:
        family: Name of its family.
        name: Its name in that family.
        cls: The class.
        params: Strict pydantic model of its keyword-only arguments.
        path_params: Names of the parameters that hold the user's paths.
        run_params: Those of them that name finished runs.
        summary: First sentence of its docstring.
        descriptions: Parameter name to its line in the docstring.
        file: Source file of the class; None where it was typed into a console.
        registered_ns: Time of the registration, in nanoseconds since 1970.
    """

    family: str
    name: str
    cls: type
    params: type[BaseModel]
    path_params: frozenset[str]
    run_params: frozenset[str]
    summary: str
    descriptions: Mapping[str, str]
    file: Path | None
    registered_ns: int = field(default_factory=time.time_ns, compare=False)

    @property
    def place(self) -> str:
        """`file:line (Class)`, for messages."""
        where = f"{self.file}:{_line(self.cls)}" if self.file else "typed in"
        return f"{where} ({self.cls.__qualname__})"

    @property
    def shipped(self) -> bool:
        """Whether the component is part of this package, not of a plugin."""
        return is_shipped(self.cls)

    def validate(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Check JSON parameters and fill in defaults.

        Raises:
            ExperimentError: Each wrong parameter, its path relative to this component.
        """
        located = {key: absolute(value) if key in self.path_params else value for key, value in raw.items()}
        located = lay_over({}, located, self.params.model_fields)
        try:
            parsed = self.params.model_validate(located)
        except ValidationError as error:
            raise ExperimentError(problems_of(error, self.params)) from error
        values = {key: getattr(parsed, key) for key in self.params.model_fields}
        if not comes_back(self.params, values, among=self._mixed):
            keys = ", ".join(sorted(self._mixed))
            differs = "the value that is read back differs from the value that was written to JSON"
            raise ExperimentError([Problem((), f"{keys}: {differs}; choose another type")])
        return {key: absolute(value) if key in self.path_params else value for key, value in values.items()}

    @functools.cached_property
    def _mixed(self) -> frozenset[str]:
        """Parameters with components inside a class or a tuple; each value is checked to be read back equal."""
        return frozenset(key for key, field in self.params.model_fields.items() if is_mixed(field))


def entry_of(family: Family, name: str, cls: type) -> Entry:
    """Check a class against its family and read its schema from its constructor."""
    place = f"{cls.__qualname__} ({cls.__module__})"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise RegistryError(f'{place}: the name "{name}" must be lower-case letters, digits, ".", "_" or "-"')
    if not issubclass(cls, family.base):
        raise RegistryError(f"{place}: {family.name} components inherit from {_importable(family.base)}")
    missing: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
    if missing:
        raise RegistryError(f"{place}: the {family.name} contract also needs {listing(missing)}")
    _check_methods(family, cls, place)
    params, annotations, descriptions = _params_of(family, name, cls, place)
    doc = inspect.getdoc(cls) if cls.__doc__ else None
    summary = " ".join((doc or "").split("\n\n")[0].split())
    return Entry(
        family.name,
        name,
        cls,
        params,
        path_params=frozenset(key for key, annotation in annotations.items() if mentions_path(annotation)),
        run_params=frozenset(key for key, annotation in annotations.items() if mentions_path(annotation, RunMark)),
        summary=summary,
        descriptions=descriptions,
        file=source_file(cls),
    )


def _importable(cls: type) -> str:
    """The dotted name to import a class by: from the package that exports it, or from its module."""
    package = cls.__module__.rpartition(".")[0]
    exported = getattr(sys.modules.get(package), cls.__qualname__, None) is cls
    return f"{package if exported else cls.__module__}.{cls.__qualname__}"


def _line(cls: type) -> int:
    """Line number of a class in its file. The search takes longer than all other steps of a registration."""
    try:
        return inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return 0


def _check_methods(family: Family, cls: type, place: str) -> None:
    """Refuse a class whose methods do not accept the arguments that its contract's methods accept."""
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


def _params_of(family: Family, name: str, cls: type, place: str) -> tuple[type[BaseModel], dict[str, Any], dict[str, str]]:
    """The schema of a component's parameters, their annotations, and their descriptions."""
    descriptions: dict[str, str] = {}
    fields: dict[str, Any] = {}
    annotations: dict[str, Any] = {}
    for kind, parameters in _constructors(family, cls, place):
        descriptions = {**_args_in(inspect.cleandoc(kind.__doc__ or "")), **descriptions}
        keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY and not p.name.startswith("_")]
        keyword = [p for p in keyword if p.name not in fields]  # a subclass's declaration counts
        try:
            hints = typing.get_type_hints(vars(kind)["__init__"], include_extras=True) if keyword else {}
        except NameError as error:
            raise RegistryError(
                f"{place}: an annotation of __init__ cannot be read: {error}; import it at run time"
            ) from error
        for p in keyword:
            if p.name == "name" or hasattr(BaseModel, p.name):
                raise RegistryError(f'{place}: the parameter name "{p.name}" is reserved; choose another')
            if p.name not in hints:
                raise RegistryError(f'{place}: annotate the parameter "{p.name}": its type is its schema')
            fields[p.name] = (json_type(hints[p.name]), ... if p.default is p.empty else p.default)
            annotations[p.name] = hints[p.name]
    _check_types(fields, place)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, validate_default=True)
    described: dict[str, Any] = {  # a parent's description remains if a subclass only changes the default
        key: (annotation, Field(default=default, description=descriptions.get(key)))
        for key, (annotation, default) in fields.items()
    }
    try:
        params = create_model(f"{family.name}.{name}", __config__=config, **described)
    except Exception as error:  # pydantic's errors for impossible annotations share no base class
        raise RegistryError(
            f"{place}: the constructor's annotations make no schema: {str(error).splitlines()[0]}"
        ) from error
    for key, known in params.model_fields.items():
        if known.alias or known.validation_alias or known.serialization_alias:
            raise RegistryError(f'{place}: the parameter "{key}" has an alias, but its key in JSON is its name; rename it')
    return params, annotations, {key: text for key, text in descriptions.items() if key in fields}


def _check_types(fields: Mapping[str, tuple[Any, Any]], place: str) -> None:
    """Refuse a parameter that JSON cannot represent, or whose default is not read back equal."""
    for key, (annotation, default) in fields.items():
        for mark in getattr(annotation, "__metadata__", ()):
            if isinstance(mark, JsonType):
                try:
                    mark.check()
                    if default is not ...:
                        mark.read(default)
                except ValidationError as error:
                    reason = "; ".join(f"{line['msg']}, at {json_path((key, *line['loc']))}" for line in error.errors())
                    raise RegistryError(f'{place}: the default of "{key}" is not of its type: {reason}') from error
                except ValueError as error:
                    raise RegistryError(f'{place}: the parameter "{key}": {error}') from error


def _constructors(family: Family, cls: type, place: str) -> Iterator[tuple[type, list[inspect.Parameter]]]:
    """The classes whose constructors declare parameters, with these parameters.

    They are the class itself, and its parents as long as each constructor passes `**shared` on.

    A keyword-only parameter that begins with "_" is private to a class and its subclasses: it is not in the JSON.
    """
    for kind in cls.__mro__:
        if "__init__" not in vars(kind):
            continue
        own = kind is not object and kind.__module__ != "torch.nn.modules.module"
        parameters = list(inspect.signature(vars(kind)["__init__"]).parameters.values())[1:] if own else []
        received = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        hands_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if tuple(received) != family.receives or any(p.kind is p.VAR_POSITIONAL for p in parameters):
            wanted = ", ".join(("self", *family.receives, "*", "..."))
            raise RegistryError(
                f"{place}: a {family.name} constructor is __init__({wanted}): parameters are keyword-only, and there are "
                "**kwargs only to pass on to a parent of that form"
            )
        yield kind, parameters
        if not hands_on:
            return


def _args_in(doc: str) -> dict[str, str]:
    """Parameter descriptions from the `Args:` section of a Google-style docstring."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    if not section:
        return {}
    found_args = re.findall(r"^ {4}(\w+):\s*(.*(?:\n {5,}.*)*)", section[1], re.MULTILINE)
    return {key: " ".join(text.split()) for key, text in found_args}
