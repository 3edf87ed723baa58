"""Components with one mistake each that people make: what `minigpt check` is for.

A module a family (attention has six). The classes that a module's mistakes are made in are right
but for them, and are tested to be. Nothing here is registered by being imported: a test registers what it checks.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from minigpt.registry import REGISTRY

T = TypeVar("T")


@dataclass(frozen=True)
class Correct:
    """A component without a mistake, which mistakes are made in.

    Attributes:
        family: Where it belongs.
        name: What it is registered as.
        cls: The class.
    """

    family: str
    name: str
    cls: type


@dataclass(frozen=True)
class Broken:
    """A component with one mistake.

    Attributes:
        family: Where it belongs.
        name: What it is registered as.
        property: The one that ought to catch it.
        why: The mistake, in a sentence.
        cls: The class.
    """

    family: str
    name: str
    property: str
    why: str
    cls: type


CORRECT: list[Correct] = []
BROKEN: list[Broken] = []


def correct(family: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: record a component that mistakes are made in."""

    def record(cls: type[T]) -> type[T]:
        CORRECT.append(Correct(family, f"correct_{_snake_case(cls)}", cls))
        return cls

    return record


def broken(family: str, property: str, why: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: record a component with a mistake."""

    def record(cls: type[T]) -> type[T]:
        BROKEN.append(Broken(family, f"broken_{_snake_case(cls)}", property, why, cls))
        return cls

    return record


def register_broken(item: Broken | Correct) -> None:
    """Register it under its name, for as long as the registry is told to keep it (`REGISTRY.temporarily`)."""
    REGISTRY.register(item.family, item.name)(item.cls)


def _snake_case(cls: type) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()


for _family in (
    "attention",
    "attention_caches",
    "attention_conditions",
    "attention_parameters",
    "attention_randomness",
    "attention_recurrent",
    "position",
    "norm",
    "ffn",
    "block",
    "tokenizer",
    "dataset",
    "optimizer",
    "schedule",
):
    importlib.import_module(f"{__name__}.{_family}")
