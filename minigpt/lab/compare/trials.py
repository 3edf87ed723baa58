"""Choose the values of settings from trials. Nothing is trained here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeGuard

from pydantic import JsonValue

from minigpt.errors import MinigptError
from minigpt.lab.compare.seeds import MOST_SEEDS
from minigpt.lab.compare.sources import path_and_values, value_of
from minigpt.lab.compare.tuned import Edge

POINTS = 5
"""Values of a setting that each variant tries, if none are named."""

_FACTOR, _MOST_DOUBLINGS, _DIGITS = 2.0, 16, 4


@dataclass(frozen=True)
class Tune:
    """A setting to tune.

    Attributes:
        path: The setting, such as `training.optimizer.weight_decay`. One word without dots is the setting of this name that
            is the least deeply nested in each variant, such as `learning_rate` of an optimizer in an optimizer.
        values: The values to try; none for five around each variant's own.
    """

    path: str = "learning_rate"
    values: tuple[JsonValue, ...] = ()

    @classmethod
    def parse(cls, word: str) -> Tune:
        """The setting that a word of `--tune` names, as `PATH` or `PATH=v1,v2`.

        Raises:
            MinigptError: It has another form.
        """
        if "=" not in word and word.strip():
            return cls(word.strip())
        path, texts = path_and_values("--tune", word)
        return cls(path, tuple(map(value_of, texts)))

    def __post_init__(self) -> None:
        if len({json.dumps(value) for value in self.values}) < 2 and self.values:
            raise MinigptError(f"--tune {self.path}: one value leaves no choice; name more of them, or use --set")


@dataclass(frozen=True)
class Tuning:
    """How variants are tuned before they are compared.

    Attributes:
        tunes: The settings, tuned one after another.
        seeds: Number of seeds of each trial. No verdict uses them.
        share: The part of the training that a trial has: its number of updates, with a schedule of that length.
    """

    tunes: tuple[Tune, ...] = (Tune(),)
    seeds: int = 1
    share: float = 1.0

    @classmethod
    def parse(cls, words: Sequence[str], seeds: int | None, share: float | None) -> Tuning | None:
        """The tuning that a command asks for; None if it asks for none.

        Args:
            words: Those of `--tune`.
            seeds: That of `--tune-seeds`, if it is given.
            share: That of `--tune-budget`, if it is given.

        Raises:
            MinigptError: A word has another form, or an option has no effect without `--tune`.
        """
        if not words:
            given = {"--tune-seeds": seeds, "--tune-budget": share}
            for option in (option for option, value in given.items() if value is not None):
                raise MinigptError(f"{option} is about --tune: add --tune learning_rate, or the path of another setting")
            return None
        return cls(tuple(map(Tune.parse, words)), 1 if seeds is None else seeds, 1.0 if share is None else share)

    def __post_init__(self) -> None:
        if not self.tunes:
            raise MinigptError("tuning needs a setting, such as --tune learning_rate")
        if not 0 < self.share <= 1:
            raise MinigptError(
                f"--tune-budget: found {self.share:g}; allowed: a part of the training, above 0 and at most 1"
            )
        if not 0 < self.seeds <= MOST_SEEDS:
            raise MinigptError(f"--tune-seeds: found {self.seeds}; allowed: 1 to {MOST_SEEDS:,}")


def around(own: float, accepts: Callable[[float], bool]) -> list[float]:
    """Five values around a variant's own, in factors of two; integers stay integers.

    Nearer values come first, so that a range that ends on one side gives more values on the other.

    Args:
        own: The variant's own value; not 0.
        accepts: Whether the variant can have a value.
    """
    return sorted(islice((value for value in _outwards(own) if value == own or accepts(value)), POINTS))


def _outwards(own: float) -> Iterator[float]:
    """The own value, its half, its double, a quarter, four times, ..., each different value once."""
    powers = [0, *(sign * power for power in range(1, _MOST_DOUBLINGS) for sign in (-1, 1))]
    scaled = (own * _FACTOR**power for power in powers)
    values = (round(value) if isinstance(own, int) else value for value in scaled)
    yield from dict.fromkeys(value for value in values if value != 0)


def beyond(values: Sequence[float], edge: Edge) -> float | None:
    """The next value beyond an edge of a grid, by the ratio of its two outermost values; None if there is none.

    Args:
        values: At least two values, in ascending order.
        edge: The side on which the grid is extended.
    """
    outer, inner = (values[0], values[1]) if edge == "lowest" else (values[-1], values[-2])
    if outer * inner <= 0:  # no ratio leads on
        return None
    value = outer * (outer / inner)
    value = round(value) if isinstance(outer, int) else float(f"{value:.{_DIGITS}g}")
    is_beyond = value < outer if edge == "lowest" else value > outer
    return value if is_beyond and value != 0 else None


def mean_or_worst(losses: Sequence[float | None]) -> float:
    """The mean of the losses; infinite if a run of a trial failed, so that no other trial is worse."""
    known = [loss for loss in losses if loss is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(losses) else math.inf


def best_of(losses: Mapping[str, float], own: str) -> str | None:
    """The key with the lowest loss, the own one if it is as good; None if all trials failed.

    Args:
        losses: The mean loss of each trial.
        own: The key that is kept without a reason to change it.
    """
    best = min(losses, key=lambda key: (losses[key], key != own))
    return best if losses[best] < math.inf else None


def edge_of(values: Sequence[JsonValue], best: JsonValue) -> Edge | None:
    """The edge of a grid of numbers at which the best value is; None if it is inside, or if the values have no order."""
    numbers = [value for value in values if is_number(value)]
    if len(numbers) < len(values) or not is_number(best):
        return None
    return "lowest" if best == min(numbers) else "highest" if best == max(numbers) else None


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def path_of(document: Mapping[str, JsonValue], word: str) -> str | None:
    """The path of the setting that a word names: the path itself, or the shallowest setting of that name.

    Args:
        document: An experiment as JSON.
        word: A path, or one word.

    Returns:
        None if no setting, or several at one depth, have this name.
    """
    if "." in word or word in document:
        return word
    level: list[tuple[str, JsonValue]] = list(document.items())
    while level:
        found = [path for path, _ in level if path.rpartition(".")[2] == word]
        if found:
            return found[0] if len(found) == 1 else None
        level = [
            (f"{path}.{key}", inner) for path, value in level if isinstance(value, dict) for key, inner in value.items()
        ]
    return None
