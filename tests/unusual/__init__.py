"""Components that are right but unusual, which `minigpt check` must not call broken.

There is one module for each kind of property. Each component names the property that is most likely to raise a false alarm.
Importing this package registers nothing: a test registers the component that it checks.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Unusual:
    """A component that is right, although a property could take it for broken.

    Attributes:
        family: Its family.
        name: Its registered name.
        property: The property that could take it for broken.
        why: What is unusual about it, and why it is right, in a sentence.
        cls: The class.
    """

    family: str
    name: str
    property: str
    why: str
    cls: type


UNUSUAL: list[Unusual] = []


def unusual(family: str, property: str, why: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: record a component that is right but unusual."""

    def record(cls: type[T]) -> type[T]:
        UNUSUAL.append(Unusual(family, f"unusual_{cls.__name__.lower()}", property, why, cls))
        return cls

    return record


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
