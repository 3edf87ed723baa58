"""The record of a recipe taken apart: ablation.json."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, JsonValue

from minigpt.lab.compare.record import Comparison, ComparisonSettings, Difference, VariantResult
from minigpt.lab.sealed import Count, Many, Name, Number, Part, Sealed, Text, plain_json
from minigpt.run.status import Status

Value = Annotated[JsonValue, BeforeValidator(plain_json)]


class ChangedSetting(Part):
    """A setting in which the recipe differs from the base.

    Attributes:
        path: Its path in the experiment.
        base: Its value in the base.
        recipe: Its value in the recipe.
    """

    path: Text
    base: Value
    recipe: Value


class Effect(Part):
    """A variant compared with the recipe or with the base.

    Attributes:
        variant: Its name in the comparison; None if the change cannot be made alone.
        verdict: The verdict in words; or why there is no variant.
        mean: Mean loss over the finished runs.
        sd: Standard deviation of the losses.
        difference: The difference to the recipe or to the base, corrected for all rows; None without a verdict.
    """

    variant: Name | None
    verdict: Text
    mean: Number | None = None
    sd: Number | None = None
    difference: Difference | None = None

    @classmethod
    def of(cls, comparison: Comparison | None, name: str) -> Effect:
        """The effect of the variant with this name in a finished comparison."""
        variants = comparison.variants if comparison is not None else ()
        found: VariantResult | None = next((variant for variant in variants if variant.name == name), None)
        if found is None:  # its plugins do not let it be trained; the comparison has the message
            return cls(variant=name, verdict=Status.CRASHED)
        return cls(variant=name, verdict=found.verdict, mean=found.mean, sd=found.sd, difference=found.difference)

    @property
    def kind(self) -> str:
        """The kind of verdict; empty without one."""
        return self.difference.kind if self.difference is not None else ""


class ChangeResult(Part):
    """What one change is worth.

    Attributes:
        name: Name of the change.
        settings: The settings that it changes.
        without: The recipe without it, compared with the recipe.
        alone: The base with it, compared with the base.
    """

    name: Name
    settings: Annotated[Many[ChangedSetting], Field(min_length=1)]
    without: Effect
    alone: Effect


class Ablation(Sealed):
    """A recipe taken apart.

    Attributes:
        name: Name of its folder, in which the comparisons are `without` and `alone`.
        recipe: Name of the recipe.
        base: Name of the base.
        chosen: Why this base was chosen.
        settings: The settings of both comparisons.
        family: Number of rows that the intervals and p-values are corrected for.
        base_mean: Mean loss of the base.
        whole: The recipe compared with the base.
        changes: The changes, in the order of the files.
        notes: Differences that are no changes.
    """

    format_number: ClassVar[int] = 1
    again: ClassVar[str] = "Call minigpt ablate again to rewrite it"

    name: Text
    recipe: Name
    base: Name
    chosen: Text
    settings: ComparisonSettings
    family: Count
    base_mean: Number | None
    whole: Effect
    changes: Annotated[Many[ChangeResult], Field(min_length=2)]
    notes: Many[Text] = ()
