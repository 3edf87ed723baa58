"""The record of a ladder: writes and reads ladder.json."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from minigpt.lab.compare.record import ComparisonSettings, Difference, FailedVariant
from minigpt.lab.ladder.sizes import Rate
from minigpt.lab.sealed import Count, FilePath, Many, Name, Number, Pair, Part, Sealed, Text
from minigpt.lab.statistics import Change


class LadderSettings(Part):
    """The settings of a ladder.

    Attributes:
        comparison: Those of the comparison at each size.
        rate: How the learning rate follows the size.
        tokens_per_parameter: Training tokens for each parameter of the base; None if they grow from those of its file.
        exponent: The power of the parameters with which tokens grow from those of the file.
    """

    comparison: ComparisonSettings
    rate: Rate
    tokens_per_parameter: Number | None
    exponent: Number


class Point(Part):
    """A variant at one size.

    Attributes:
        name: The variant's name.
        parameters: Its number of parameters; None if unknown.
        tokens: Tokens that one training sees.
        training_flops: Operations of one training; None if unknown.
        learning_rate: The optimizer's learning rate; None if it has none.
        seeds: The seeds of its runs.
        losses: One per seed; None for a run without one.
        mean: Their mean.
        sd: Their standard deviation.
        verdict: The verdict at this size, in words.
        difference: The difference to the base at this size; None for the base, and if a run failed.
    """

    name: Name
    parameters: Count | None
    tokens: Count
    training_flops: Count | None
    learning_rate: Number | None
    seeds: Many[Count]
    losses: Many[Number | None]
    mean: Number | None
    sd: Number | None
    verdict: Text
    difference: Difference | None


class SizeResult(Part):
    """All variants at one size.

    Attributes:
        name: The base's width and depth, such as `96x3`.
        folder: The comparison's folder, relative to the ladder's.
        variants: The base first.
        failed: Variants that could not be compared at this size.
    """

    name: Name
    folder: FilePath
    variants: Annotated[Many[Point], Field(min_length=1)]
    failed: Many[FailedVariant] = ()


class Interval(Part):
    """A number with its 90 % interval; an end is None if it has no bound."""

    value: Number | None
    low: Number | None
    high: Number | None


class Curves(Part):
    """A variant's curve beside the base's: `minigpt.lab.statistics.Scaling` explains the numbers."""

    floor: Number
    scales: Pair[Number]
    exponents: Pair[Number]
    residual: Number
    noise: Number | None
    speedup: Interval
    smallest: Interval
    trend: Interval
    change: Change


class Finding(Part):
    """What the ladder says about a variant.

    Attributes:
        variant: The variant's name.
        sizes: The sizes at which all of its runs and the base's finished.
        curves: The fit; None if there are too few sizes.
        statement: The finding in one sentence.
        cautions: Reasons to doubt it.
    """

    variant: Name
    sizes: Many[Name]
    curves: Curves | None
    statement: Text
    cautions: Many[Text] = ()


class Ladder(Sealed):
    """The results of a ladder.

    Attributes:
        name: Name of its folder.
        settings: The settings.
        sizes: Ascending.
        findings: One for each variant.
        failed: Variants that could not be compared at any size.
    """

    format_number: ClassVar[int] = 1
    again: ClassVar[str] = "Call minigpt ladder again to rewrite it"

    name: Text
    settings: LadderSettings
    sizes: Annotated[Many[SizeResult], Field(min_length=1)]
    findings: Many[Finding]
    failed: Many[FailedVariant] = ()
