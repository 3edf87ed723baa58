"""A comparison on several corpora as a table, and as CSV, JSON and Markdown that cover all corpora."""

from __future__ import annotations

import csv
import io

from pydantic import JsonValue

from minigpt.lab.compare.tables import Table, csv_rows, markdown_text
from minigpt.lab.corpora.comparing import ComparedCorpora
from minigpt.lab.corpora.record import CorporaRecord, OnCorpus
from minigpt.numbers import UNKNOWN, shown_difference
from minigpt.printable import as_markdown


def summary_table(record: CorporaRecord) -> Table:
    """Each variant's difference and verdict on each corpus, and what the corpora show together."""

    def cell(result: OnCorpus) -> str:
        if result.difference is None:
            return result.short_verdict
        return f"{shown_difference(result.difference.mean, record.settings.delta)}, {result.short_verdict}"

    on = {(row.name, result.variant): cell(result) for row in record.rows for result in row.results}
    rows = tuple(
        (each.variant, *(on.get((row.name, each.variant), UNKNOWN) for row in record.rows), each.words)
        for each in record.summaries
    )
    columns = ("variant", *(row.name for row in record.rows), "summary")
    return Table("Is each variant better on every corpus?", columns, rows)


def notes(record: CorporaRecord) -> list[str]:
    """What the table means, one note per line."""
    family = max((r.difference.family for row in record.rows for r in row.results if r.difference is not None), default=0)
    lines = ["losses on different corpora are not averaged: differences of different texts have no common scale"]
    if family > 1:
        lines.append(f"all verdicts are corrected together, for {family} pairs of a variant and a corpus")
    passes = [(row.name, row.passes, float(str(row.data["fraction"]))) for row in record.rows if row.passes is not None]
    return lines + [
        f"{name}: training passes about {number:g} time{'s' * (number != 1)} over {share:.2%} of the training text"
        for name, number, share in passes
    ]


def csv_text(found: ComparedCorpora) -> str:
    """The runs on all corpora as CSV, one row per run."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for index, comparison in enumerate(found.comparisons):
        header, *rows = csv_rows(comparison)
        writer.writerows([["corpus", *header]] if index == 0 else [])
        writer.writerows([comparison.name, *row] for row in rows)
    return stream.getvalue()


def json_document(found: ComparedCorpora) -> dict[str, JsonValue]:
    """Everything: corpora.json, and under `comparisons` the comparison.json of each corpus."""
    assert found.record is not None
    comparisons = {each.name: each.seen_from(found.folder).document() for each in found.comparisons}
    return {**found.record.document(), "comparisons": dict(comparisons)}


def markdown_of(found: ComparedCorpora) -> str:
    """The summary and all tables in Markdown, for a pull request."""
    assert found.record is not None
    table = summary_table(found.record)
    parts = [f"**{table.title}**", table.markdown(), "\n".join(f"- {as_markdown(note)}" for note in notes(found.record))]
    parts += [f"### {as_markdown(each.name)}\n\n{markdown_text(each).rstrip()}" for each in found.comparisons]
    return "\n\n".join(parts) + "\n"
