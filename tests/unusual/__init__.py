"""Components that are right but unusual, which `minigpt check` must not call broken.

There is one module for each kind of property. Each component names the property that is most likely to raise a false alarm.
Importing this package registers nothing: a test registers the component that it checks.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from tests.broken import Broken

T = TypeVar("T")


class Unusual(Broken):
    """A component that is right, although its property could take it for broken; `why` says why it is right."""


UNUSUAL: list[Unusual] = []


def unusual(family: str, property: str, why: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: record a component that is right but unusual."""

    def record(cls: type[T]) -> type[T]:
        UNUSUAL.append(Unusual(family, f"unusual_{cls.__name__.lower()}", property, why, cls))
        return cls

    return record


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
