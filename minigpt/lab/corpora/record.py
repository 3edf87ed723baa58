"""The record of a comparison on several corpora: corpora.json, and the summary for each variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from minigpt.lab.compare.record import Comparison, ComparisonSettings, Difference, VariantResult
from minigpt.lab.sealed import Many, Name, Number, Part, Sealed, Text, plain_json
from minigpt.run.status import Status


class OnCorpus(Part):
    """The result of a variant on one corpus.

    Attributes:
        variant: Name of the variant.
        verdict: The verdict in words.
        difference: The difference to the base; None if a run failed.
    """

    variant: Name
    verdict: Text
    difference: Difference | None = None

    @property
    def short_verdict(self) -> str:
        """The verdict without the number of seeds; the outcome of a failed run."""
        if self.difference is None or self.difference.kind == "equivalent":
            return self.verdict
        return self.difference.kind


class CorpusRow(Part):
    """One corpus.

    Attributes:
        name: Its name, which is also the name of its comparison's folder.
        data: The dataset with all of its parameters.
        passes: How often training passes over its text; None if that was not asked for.
        results: The variants' results, without the base.
    """

    name: Name
    data: Annotated[dict[str, JsonValue], BeforeValidator(plain_json)]
    passes: Number | None = None
    results: Many[OnCorpus]

    @model_validator(mode="after")
    def _passes_have_a_fraction(self) -> Self:
        if self.passes is not None and not isinstance(self.data.get("fraction"), float):
            raise ValueError("a number of passes needs the fraction of the text")
        return self


class Summary(Part):
    """What the corpora show of one variant.

    Attributes:
        variant: Name of the variant.
        words: On how many corpora it is better, or on which ones it is what.
    """

    variant: Name
    words: Text


class CorporaRecord(Sealed):
    """The results of a comparison on several corpora. Each corpus has its own comparison.json in the folder of its name.

    Attributes:
        name: Name of the folder.
        base: Name of the base.
        settings: The settings of each comparison.
        rows: The corpora.
        summaries: What they show of each variant.
    """

    format_number: ClassVar[int] = 1
    again: ClassVar[str] = "Call minigpt compare again to rewrite it"

    name: Text
    base: Name
    settings: ComparisonSettings
    rows: Annotated[Many[CorpusRow], Field(min_length=1)]
    summaries: Many[Summary]

    @classmethod
    def of(cls, name: str, rows: Sequence[tuple[str, dict[str, Any], float | None, Comparison]]) -> Self:
        """From the name, the dataset and the passes of each row, and the comparison on it."""
        recorded = [
            CorpusRow(name=row, data=data, passes=passes, results=tuple(_results(comparison)))
            for row, data, passes, comparison in rows
        ]
        names = list(dict.fromkeys(result.variant for row in recorded for result in row.results))
        on = {(row.name, result.variant): result.short_verdict for row in recorded for result in row.results}
        summaries = [
            Summary(
                variant=each, words=summary([(row.name, on[row.name, each]) for row in recorded if (row.name, each) in on])
            )
            for each in names
        ]
        first = rows[0][3]
        return cls(
            name=name, base=first.base.name, settings=first.settings, rows=tuple(recorded), summaries=tuple(summaries)
        )


def _results(comparison: Comparison) -> list[OnCorpus]:
    def result(variant: VariantResult) -> OnCorpus:
        return OnCorpus(variant=variant.name, verdict=variant.verdict, difference=variant.difference)

    crashed = [OnCorpus(variant=failed.name, verdict=Status.CRASHED) for failed in comparison.failed]
    return [result(variant) for variant in comparison.variants[1:]] + crashed


def summary(verdicts: Sequence[tuple[str, str]]) -> str:
    """What verdicts on several corpora show together. Nothing is averaged, so it says where they differ.

    Args:
        verdicts: The name of each corpus, and the verdict on it.
    """
    corpora: dict[str, list[str]] = {}
    for corpus, verdict in verdicts:
        corpora.setdefault(verdict, []).append(corpus)
    if len(corpora) == 1:
        return f"{verdicts[0][1]} on {len(verdicts)} of {len(verdicts)}"
    words = ", ".join(f"{verdict} on {' and '.join(names)}" for verdict, names in corpora.items())
    return f"disagree: {words}" if {"better", "worse"} <= corpora.keys() else words
