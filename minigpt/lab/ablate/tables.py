"""A recipe taken apart, as tables for the terminal, pull requests (Markdown) and spreadsheets (CSV)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence

from minigpt.errors import count
from minigpt.lab.ablate.record import Ablation, ChangeResult, Effect
from minigpt.lab.compare.tables import Table
from minigpt.lab.compare.variants import UNITS
from minigpt.numbers import UNKNOWN, shown_difference, shown_interval, shown_loss
from minigpt.printable import as_markdown, as_spreadsheet

_LONGEST_VALUE = 60
_MEANINGS = {
    "worse": "needed (worse without it)",
    "equivalent": "makes no difference (equivalent without it)",
    "better": "harms (better without it)",
}


def ablation_table(ablation: Ablation) -> Table:
    """A row for each change: what its removal does to the recipe, and what it does to the base alone."""
    columns = ("change", "recipe without it", "verdict", f"{ablation.base} with it", "verdict")
    delta = ablation.settings.delta
    rows = [(each.name, *_cells(each.without, delta), *_cells(each.alone, delta)) for each in ablation.changes]
    whole = (f"all of them: {ablation.recipe}", UNKNOWN, UNKNOWN, *_cells(ablation.whole, delta))
    title = f"What is each change of {ablation.recipe} worth?"
    return Table(title, columns, (*rows, whole))


def _cells(effect: Effect, delta: float) -> tuple[str, str]:
    found = effect.difference
    if found is None:
        return UNKNOWN, effect.verdict
    mean = shown_difference(found.mean, delta)
    return f"{mean} ({shown_interval(found.interval, delta)})" if found.has_interval else mean, effect.verdict


def findings(ablation: Ablation) -> list[str]:
    """What was found, one sentence per line."""
    lines = [f"{ablation.recipe} against {ablation.base}: {ablation.whole.verdict}"]
    for kind, meaning in _MEANINGS.items():
        if names := [each.name for each in ablation.changes if each.without.kind == kind]:
            lines.append(f"{meaning}: {', '.join(names)}")
    if names := [each.name for each in ablation.changes if each.without.kind not in _MEANINGS]:
        lines.append(f"not known: {', '.join(names)}")
    return lines


def notes(ablation: Ablation) -> list[str]:
    """Notes to the table, one per line: what was compared, how, and the settings behind each change."""
    seeds = count(len(ablation.settings.seeds), "seed")
    loss, recipe = shown_loss(ablation.base_mean), shown_loss(ablation.whole.mean)
    return [
        f"the base is {ablation.base}: {ablation.chosen}",
        f"loss: {ablation.base} {loss}, {ablation.recipe} {recipe} ({UNITS[ablation.settings.unit]}, mean over {seeds})",
        "differences are paired by seed: recipe without a change minus recipe, base with a change minus base",
        f"intervals and verdicts are corrected for {count(ablation.family, 'row')} (Bonferroni): all intervals hold jointly",
        *(f"{each.name}: {_settings(each)}" for each in ablation.changes),
        *ablation.notes,
    ]


def _settings(change: ChangeResult) -> str:
    return "; ".join(f"{each.path} {_value(each.base)} → {_value(each.recipe)}" for each in change.settings)


def _value(value: object) -> str:
    """A value, abbreviated; of a component its name."""
    name = value.get("name") if isinstance(value, dict) else None
    text = name if isinstance(name, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def markdown_text(ablation: Ablation) -> str:
    """Findings, table and notes in Markdown, for a pull request."""
    table = ablation_table(ablation)
    lines = "\n".join(f"- {as_markdown(line)}" for line in findings(ablation))
    return f"**{table.title}**\n\n{lines}\n\n{table.markdown()}\n\n" + "".join(
        f"- {as_markdown(note)}\n" for note in notes(ablation)
    )


def csv_text(ablation: Ablation) -> str:
    """The effects as CSV, two rows per change."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["change", "part", "variant", "loss", "difference", "low", "high", "p", "verdict"])
    for name, part, effect in _effects(ablation):
        found = effect.difference
        numbers: Sequence[object] = () if found is None else (found.mean, *found.interval, found.p)
        values = [name, part, effect.variant or "", effect.mean, *(numbers or [None] * 4), effect.verdict]
        writer.writerow([as_spreadsheet(value) if isinstance(value, str) else value for value in values])
    return stream.getvalue()


def _effects(ablation: Ablation) -> Iterator[tuple[str, str, Effect]]:
    for each in ablation.changes:
        yield each.name, "without", each.without
        yield each.name, "alone", each.alone
    yield "", "whole", ablation.whole
