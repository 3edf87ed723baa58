"""`minigpt ledger`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli.terminal import say
from minigpt.errors import RunError, count
from minigpt.numbers import shown_difference


def ledger(
    folder: Annotated[Path, typer.Argument(help="The folder of comparisons whose verdicts are listed.")] = Path(
        "comparisons"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List every verdict that was given in a folder, and which of them survive how often was asked.

    Each verdict has a level, which depends on the verdicts before it. A difference survives if its p-value is not above its
    level. Verdicts count also if the folder of their comparison was deleted.
    """
    from minigpt.lab.compare.questions import not_in_ledger
    from minigpt.lab.ledger import FILE, Ledger, shown

    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}; minigpt compare creates it with its first comparison")
    known = Ledger.read(folder / FILE)
    missing = not_in_ledger(folder / FILE, known)
    if as_json:
        entries = [{**entry.model_dump(mode="json"), "survives": entry.survives} for entry in known.entries]
        say(json.dumps({"entries": entries, "next_level": known.next_level(), "not_in_ledger": missing}, indent=2))
        return

    from rich import box
    from rich.table import Table

    from minigpt.cli.drawing import terminal

    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("question", "comparison", "variant", "base"):
        table.add_column(title, overflow="fold")
    for title in ("seeds", "difference", "p", "allowed", "verdict", "survives"):
        table.add_column(title, justify="right")
    for entry in known.entries:
        words = ("yes" if entry.survives else "no") if entry.kind in ("better", "worse") else ""
        names = (str(entry.number), entry.comparison, entry.variant, entry.base, str(entry.seeds))
        numbers = (shown_difference(entry.mean, 0.0), *shown(entry.p, entry.level))
        table.add_row(*names, *numbers, entry.kind, words, style="green" if entry.survives else "")
    console = terminal()
    if known.entries:
        console.print(table)
    survivors = sum(entry.survives for entry in known.entries)
    survive = f"{survivors} survive{'s' * (survivors == 1)}"
    summary = f"{count(len(known.entries), 'question')}, {survive}; the next one needs p ≤ {known.next_level():.2g}"
    console.print(summary, soft_wrap=True)
    for line in missing:
        console.print(line, style="red", soft_wrap=True)
