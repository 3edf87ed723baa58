"""The seeds of a comparison: those of every variant, further ones while verdicts are missing, a second group of the base."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from minigpt.errors import MinigptError
from minigpt.lab.compare.variants import Variant

MOST_SEEDS = 10_000
"""The largest number of seeds of a verdict."""

_SEEDS = 3


@dataclass(frozen=True)
class SeedRange:
    """A number of seeds that grows, one seed at a time, until every variant has a verdict.

    Attributes:
        first: Number of seeds before the first verdict.
        most: Largest number of seeds.
    """

    first: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.first < self.most <= MOST_SEEDS:
            raise MinigptError(_refusal(f"{self.first}..{self.most}"))


@dataclass(frozen=True)
class Seeds:
    """All seeds that a comparison may use.

    Attributes:
        first: Seeds of every variant.
        further: Seeds that are added one at a time, for the variants that have no verdict yet.
        again: Seeds of the base's second group, which shows what chance alone does; empty without it.
    """

    first: tuple[int, ...]
    further: tuple[int, ...] = ()
    again: tuple[int, ...] = ()

    @property
    def most(self) -> int:
        """The largest number of seeds that a variant can have."""
        return len(self.first) + len(self.further)

    @property
    def last(self) -> int:
        """The largest of all seeds."""
        return max(self.first + self.further + self.again)

    def __str__(self) -> str:
        """For example `seeds 5 to 7, up to 16 if there is no verdict, base again with 17 to 19`."""
        more = f", up to {self.further[-1]} if there is no verdict" if self.further else ""
        again = f", base again with {listed(self.again)}" if self.again else ""
        return f"seed{'s' * (len(self.first) > 1)} {listed(self.first)}{more}{again}"


def listed(seeds: Sequence[int]) -> str:
    """The first and the last seed: `5 to 7`, or `5` for a single one."""
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"


def parse_seeds(text: str) -> int | SeedRange:
    """Read a number of seeds, or a range of it (`3..12`), as the user typed it.

    Raises:
        MinigptError: It is neither.
    """
    typed = re.fullmatch(r"([0-9]{1,6})(?:\.\.([0-9]{1,6}))?", text)
    if typed is None:
        raise MinigptError(_refusal(text))
    first, most = typed.groups()
    if most is not None:
        return SeedRange(int(first), int(most))
    if not 1 <= int(first) <= MOST_SEEDS:
        raise MinigptError(_refusal(text))
    return int(first)


def _refusal(found: str) -> str:
    return (
        f'--seeds: found "{found}"; allowed: a number from 1 to {MOST_SEEDS:,}, such as 5, '
        "or a smaller and a larger number, such as 3..12"
    )


def seeds_of(variants: Sequence[Variant], number: int | SeedRange | None, *, noise: bool) -> Seeds:
    """The seeds of a comparison: consecutive from the base's seed, or those shared if all variants are runs.

    Args:
        variants: The variants, the base first.
        number: Number of seeds, as in `Settings`.
        noise: Whether the base gets a second group of seeds. It has as many seeds as each variant has at first.

    Raises:
        MinigptError: The runs share no seed, or there is nothing to compare the base with.
    """
    if len(variants) == 1 and (not noise or isinstance(number, SeedRange)):
        option = "--seeds FIRST..MOST needs" if noise else "without the base's second group of seeds, compare needs"
        raise MinigptError(f"{option} a base and at least one variant: minigpt compare BASE VARIANT...")
    first = variants[0].experiment.seed
    if number is None and all(variant.runs for variant in variants):
        seeds, further = _shared(variants), range(0)
        if len(variants) > 1:
            return Seeds(tuple(seeds))  # as they are: nothing is trained
    else:
        wanted = number if isinstance(number, SeedRange) else None
        length = wanted.first if wanted else number if isinstance(number, int) else _SEEDS
        seeds = list(range(first, first + length))
        further = range(first + length, first + (wanted.most if wanted else length))
    last = further[-1] if further else seeds[-1]
    return Seeds(tuple(seeds), tuple(further), tuple(range(last + 1, last + 1 + len(seeds))) if noise else ())


def _shared(variants: Sequence[Variant]) -> list[int]:
    """The seeds that all runs share.

    Raises:
        MinigptError: There is none.
    """
    of_runs = [{run.experiment().seed for run in variant.runs} for variant in variants]
    shared = sorted(set.intersection(*of_runs))
    if not shared:
        raise MinigptError(
            "the runs share no seed, so there are no pairs: "
            + "; ".join(f"{variant.name} {sorted(seeds)}" for variant, seeds in zip(variants, of_runs, strict=True))
            + ". --seeds N trains the missing runs"
        )
    return shared
