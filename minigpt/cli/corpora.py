"""`minigpt compare --data` and `--epochs`: a comparison on each of several corpora."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.cli.compare import exit_if_stopped, print_results, rich_table
from minigpt.system.files import json_bytes, write_output

if TYPE_CHECKING:
    from rich.console import Console

    from minigpt.lab.compare import Settings, Source
    from minigpt.lab.corpora import ComparedCorpora
    from minigpt.lab.corpora.comparing import CompareOne
    from minigpt.reading import Reading


def compare_on_corpora(
    sources: Sequence[Path | Source],
    settings: Settings,
    compare_one: CompareOne,
    corpora: tuple[str | None, str | None],
    out: Path,
    name: str | None,
    reading: Reading,
    plan_only: bool,
    console: Console,
    files: tuple[Path | None, Path | None, Path | None],
) -> None:
    """Compare on each corpus, and print and write the results.

    Args:
        sources: The base and the variants.
        settings: The settings of each comparison.
        compare_one: Makes one comparison.
        corpora: The values of --data and --epochs.
        out: The folder in which this comparison gets its folder.
        name: The name of its folder.
        reading: How the sources are read.
        plan_only: Only print the plans.
        console: Where results are printed.
        files: The files of --json, --csv and --markdown.
    """
    from minigpt.lab.corpora import compare_corpora

    data, epochs = corpora
    found = compare_corpora(
        sources,
        settings,
        compare_one,
        data=data,
        epochs=epochs,
        out=out,
        name=name,
        reading=reading,
        only_plan=plan_only,
    )
    exit_if_stopped(found.stop_signal)
    if not plan_only:
        _report(found, console, files)


def _report(found: ComparedCorpora, console: Console, files: tuple[Path | None, Path | None, Path | None]) -> None:
    from minigpt.lab.corpora.tables import csv_text, json_document, markdown_of, notes, summary_table

    assert found.record is not None
    for comparison in found.comparisons:
        console.print(f"\n{comparison.name}", style="bold")
        print_results(comparison, console)
    console.print()
    console.print(rich_table(summary_table(found.record)))
    for note in notes(found.record):
        console.print(note, style="dim", soft_wrap=True)
    json_file, csv_file, markdown = files
    if json_file is not None:
        write_output(json_file, json_bytes(json_document(found)))
    if csv_file is not None:
        write_output(csv_file, csv_text(found).encode("utf-8"))
    if markdown is not None:
        write_output(markdown, markdown_of(found).encode("utf-8"))
    console.print(f"\nsaved in {found.folder}")
