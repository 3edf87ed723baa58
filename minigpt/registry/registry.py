"""The registry: finds components by name. A component's constructor is its schema.

    @register("norm", "rmsnorm")
    class RMSNorm(Norm):
        '''One line that says what it is (paper, arXiv number).

        Args:
            eps: Added to the mean square before the root.
        '''

        def __init__(self, width: int, *, eps: Annotated[float, Field(gt=0)] = 1e-6): ...

The lab passes the arguments before the `*`, which are the same for a whole family. Keyword-only arguments are the JSON
parameters: their annotations give a strict pydantic model, and the docstring their descriptions. An argument may be a
component: annotate it with the alias of its family (`NormSpec`). This module does not import torch.
"""  # noqa: D214 - the example has its own "Args:" section

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel

from minigpt.errors import ExperimentError, Problem, RegistryError, listing, nearest
from minigpt.registry.entry import Entry, entry_of
from minigpt.registry.family import Family
from minigpt.registry.problems import quote
from minigpt.registry.spec import Spec

T = TypeVar("T")


class Registry:
    """Families and their registered components. There is one instance, `REGISTRY`."""

    def __init__(self) -> None:
        self._families: dict[str, Family] = {}
        self._entries: dict[str, dict[str, Entry]] = {}
        self.unknown_hints: list[Callable[[str, str], str | None]] = []
        """Functions of (family, name) that suggest a next step for an unknown name; plugins.py adds its own."""

    def add_family(self, name: str, base: type, receives: tuple[str, ...] = ()) -> Family:
        """Declare a family; `minigpt.contracts` declares all of them."""
        if name in self._families:
            raise RegistryError(f'the family "{name}" is declared already, for {self._families[name].base.__qualname__}')
        self._families[name] = Family(name, base, receives, self.resolve, self._params_of)
        self._entries[name] = {}
        return self._families[name]

    def family(self, name: str) -> Family:
        """Look up a family.

        Raises:
            RegistryError: There is none of that name.
        """
        if name not in self._families:
            homes = [family for family, entries in self._entries.items() if name in entries]
            hint = f'; "{name}" belongs to the family {homes[0]}' if homes else nearest(name, self._families)
            raise RegistryError(f'unknown family "{name}"; known: {listing(self._families)}{hint}')
        return self._families[name]

    def families(self) -> list[Family]:
        """All families, in the order of declaration."""
        return list(self._families.values())

    def register(self, family: str, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make a component known as `name` in `family`.

        Raises:
            RegistryError: The class does not satisfy the family's contract, or the name is taken.
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
            RegistryError: The name is unknown; the message lists the nearest and the known names, and a next step.
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

    def registered_ns(self, cls: type) -> int | None:
        """The time when a class was registered, in nanoseconds since 1970; None if it is not registered."""
        entries = (entry for family in self._entries.values() for entry in family.values())
        return next((entry.registered_ns for entry in entries if entry.cls is cls), None)

    def remove(self, family: str, name: str) -> None:
        """Remove a component if it is registered.

        It is needed when an edited plugin file is read again.
        """
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
            raise ExperimentError([Problem((), f'found {quote(value)}; allowed: a name, or {{"name": ..., parameters}}')])
        name = value.get("name")
        if not isinstance(name, str):
            known = listing(self._entries[family])
            what = f"found {quote(name)}; allowed: one of" if "name" in value else f"is required: which {family}? One of"
            raise ExperimentError([Problem(("name",), f"{what} {known}")])
        try:
            entry = self.entry(family, name)
        except RegistryError as error:
            raise ExperimentError([Problem((), str(error))]) from error
        params = entry.validate({key: item for key, item in value.items() if key != "name"})
        return Spec(family, entry.name, params, entry.cls)

    def _params_of(self, family: str, name: str) -> type[BaseModel] | None:
        entry = self._entries[family].get(name)
        return entry.params if entry else None

    @contextlib.contextmanager
    def undo_on_error(self) -> Iterator[None]:
        """Undo all registrations inside the block if it raises."""
        before = {family: dict(entries) for family, entries in self._entries.items()}
        try:
            yield
        except BaseException:
            self._entries = before
            raise

    @contextlib.contextmanager
    def temporarily(self) -> Iterator[None]:
        """Undo all registrations inside the block when it ends; for tests and notebooks."""
        before = {family: dict(entries) for family, entries in self._entries.items()}
        try:
            yield
        finally:
            self._entries = before


def _is_new_version(old: Entry, new: Entry) -> bool:
    """Whether `new` is from the same notebook cell, or from another version of the same plugin file."""
    before, after = (entry.cls.__module__.split(".") for entry in (old, new))
    if before == after == ["__main__"]:
        return old.cls.__qualname__ == new.cls.__qualname__
    # minigpt_plugins.NAME_DIGEST, and what follows inside of a package
    names = [parts[1].rpartition("_")[0] for parts in (before, after) if parts[0] == "minigpt_plugins" and len(parts) > 1]
    return len(names) == 2 and names[0] == names[1]


REGISTRY = Registry()
register = REGISTRY.register
