"""Components with one common mistake each, which `minigpt check` must find.

There is one module for each family, or several, and some for what shows only after training, at some sizes, or at some
places. Each broken component is a subclass of a correct one, and tests check that the correct ones pass. Importing this
package registers nothing: a test registers the component that it checks.
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
    """A component without a mistake, the base class of broken ones.

    Attributes:
        family: Its family.
        name: Its registered name.
        cls: The class.
    """

    family: str
    name: str
    cls: type


@dataclass(frozen=True)
class Broken:
    """A component with one mistake.

    Attributes:
        family: Its family.
        name: Its registered name.
        property: The property that must find it.
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
    """Class decorator: record a correct component."""

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
    """Register a component under its name; `REGISTRY.temporarily` removes it again."""
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
    "attention_segments",
    "attention_training",
    "position",
    "norm",
    "ffn",
    "block",
    "embedding",
    "init",
    "objective",
    "tokenizer",
    "tokenizer_symbols",
    "dataset",
    "dataset_overlaps",
    "batching",
    "optimizer",
    "optimizer_steps",
    "resuming",
    "schedule",
    "sampler",
    "after_training",
    "places",
    "sizes",
):
    importlib.import_module(f"{__name__}.{_family}")
