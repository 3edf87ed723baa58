"""The page of a study: several comparisons in one folder, with a record of what they show together."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minigpt.lab.ablate import tables as ablation_tables
from minigpt.lab.ablate.record import Ablation
from minigpt.lab.compare.conclusion import limits_of_tuning
from minigpt.lab.compare.record import Comparison
from minigpt.lab.compare.tables import Table, cautions
from minigpt.lab.corpora import tables as corpora_tables
from minigpt.lab.corpora.record import CorporaRecord
from minigpt.lab.ladder import tables as ladder_tables
from minigpt.lab.ladder.record import Ladder
from minigpt.lab.report.canvas import Picture
from minigpt.lab.report.differences import by_seed
from minigpt.lab.report.page import write_page
from minigpt.lab.report.scaling import of_ladder, speedup_table


@dataclass(frozen=True)
class Study:
    """What the page of a study shows.

    Attributes:
        name: Name of its folder.
        what: What kind of study it is, in one sentence.
        found: What was found, in sentences.
        not_shown: What was not shown, in one sentence.
        tables: The results.
        pictures: Its figures.
        notes: Cautions and the method.
        parts: The folders of its comparisons.
    """

    name: str
    what: str
    found: Sequence[str]
    not_shown: str
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    notes: Sequence[str]
    parts: Sequence[str]


def study_in(folder: Path) -> Path | None:
    """The record of the study in a folder; None if there is none."""
    return next((folder / name for name in _STUDIES if (folder / name).is_file()), None)


def write_study(record: Path, file: Path, *, is_named: bool = False) -> None:
    """Write the page of a study, as `minigpt.lab.report.page.write_report` does.

    Raises:
        RunError: The record, or one of its comparisons, is damaged.
    """
    write_page("study.html.j2", file, is_named=is_named, study=_STUDIES[record.name](record))


def _ladder(record: Path) -> Study:
    ladder = Ladder.read(record)
    sizes = [size.name for size in ladder.sizes]
    limits = "that it holds at larger sizes, on another text, or if models grow by another rule"
    doubts = [f"{each.variant}: caution: {caution}" for each in ladder.findings for caution in each.cautions]
    comparisons, picture = _comparisons(record, sizes), of_ladder(ladder)
    return Study(
        name=ladder.name,
        what="The base and each variant were trained at several sizes, with the same seeds at each.",
        found=[finding.statement for finding in ladder.findings],
        not_shown=_not_shown(limits, comparisons),
        tables=(speedup_table(ladder), ladder_tables.size_table(ladder)),
        pictures=[] if picture is None else [picture],
        notes=[*doubts, *_cautions(comparisons), *ladder_tables.notes(ladder)],
        parts=sizes,
    )


def _ablation(record: Path) -> Study:
    ablation = Ablation.read(record)
    parts = {"without": f"{ablation.recipe} without each change", "alone": f"{ablation.base} with each change alone"}
    limits = "what groups of changes are worth; that it holds beyond one text, one size and one budget"
    comparisons = _comparisons(record, list(parts))
    return Study(
        name=ablation.name,
        what=f"Each change of {ablation.recipe} was removed alone, and added alone to {ablation.base}.",
        found=ablation_tables.findings(ablation),
        not_shown=_not_shown(limits, comparisons),
        tables=(ablation_tables.ablation_table(ablation),),
        pictures=_pictures([(parts[name], comparison) for name, comparison in comparisons]),
        notes=[*_cautions(comparisons), *ablation_tables.notes(ablation)],
        parts=list(parts),
    )


def _corpora(record: Path) -> Study:
    corpora = CorporaRecord.read(record)
    names = [row.name for row in corpora.rows]
    limits = "that it holds on any other corpus, at another size or with another budget"
    comparisons = _comparisons(record, names)
    return Study(
        name=corpora.name,
        what="The same variants were compared with the same base on several corpora. Each corpus has its own verdict.",
        found=[f"{each.variant} against {corpora.base}: {each.words}" for each in corpora.summaries],
        not_shown=_not_shown(limits, comparisons),
        tables=(corpora_tables.summary_table(corpora),),
        pictures=_pictures(comparisons),
        notes=[*_cautions(comparisons), *corpora_tables.notes(corpora)],
        parts=names,
    )


_STUDIES: dict[str, Callable[[Path], Study]] = {
    "ladder.json": _ladder,
    "ablation.json": _ablation,
    "corpora.json": _corpora,
}


def _comparisons(record: Path, names: Sequence[str]) -> list[tuple[str, Comparison]]:
    """The study's comparisons that are beside its record; a person may have received the record alone."""
    files = [(name, record.parent / name / "comparison.json") for name in names]
    return [(name, Comparison.read(file)) for name, file in files if os.path.isfile(file)]


def _not_shown(limits: str, comparisons: Sequence[tuple[str, Comparison]]) -> str:
    untuned = list(dict.fromkeys(limit for _, comparison in comparisons for limit in limits_of_tuning(comparison)))
    return "; ".join([f"not shown: {limits}", *untuned])


def _cautions(comparisons: Sequence[tuple[str, Comparison]]) -> list[str]:
    """Differences that resemble those that give false verdicts, in each comparison."""
    return [f"{name}, {caution}" for name, comparison in comparisons for caution in cautions(comparison)]


def _pictures(comparisons: Sequence[tuple[str, Comparison]]) -> list[Picture]:
    """The differences of all seeds in each comparison."""
    pictures = [(title, by_seed(each, f"seeds-{place}")) for place, (title, each) in enumerate(comparisons)]
    return [replace(picture, title=f"Differences: {title}") for title, picture in pictures if picture is not None]
