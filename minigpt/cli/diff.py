"""`minigpt diff`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minigpt.cli.options import run_at
from minigpt.cli.terminal import say
from minigpt.numbers import shown_loss

if TYPE_CHECKING:
    from minigpt.run import RunFolder

Run = Annotated[Path, typer.Argument(help="A run folder, or an experiment file.")]


def diff(one: Run, other: Run) -> None:
    """Show the differences between two runs or experiments.

    Settings are compared and, for runs, also code, data, machine and losses. No code from a run folder is executed: the
    settings are read from the record of the run.
    """
    from rich import box
    from rich.table import Table

    from minigpt.cli.drawing import terminal
    from minigpt.lab.differences import differences

    runs = [run_at(path) for path in (one, other)]
    first, second = (_document(path, run) for path, run in zip((one, other), runs, strict=True))
    seeds = first.get("seed"), second.get("seed")
    rows = [("seed", str(seeds[0]), str(seeds[1]))] if seeds[0] != seeds[1] else []
    rows += differences(first, second)
    if runs[0] and runs[1]:
        rows += _run_differences(runs[0], runs[1])
    if not rows:
        say("no differences")
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("what", str(one), str(other)):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    terminal().print(table)


def _document(path: Path, run: RunFolder | None) -> dict[str, Any]:
    from minigpt.reading import load_experiment

    return load_experiment(path).to_json() if run is None else run.document()


def _run_differences(one: RunFolder, other: RunFolder) -> list[tuple[str, str, str]]:
    first, second = one.provenance(), other.provenance()
    pairs: dict[str, tuple[Any, Any]] = {
        f"{section}.{key}": (getattr(ours, key), getattr(theirs, key))
        for section, ours, theirs in (
            ("versions", first.versions, second.versions),
            ("machine", first.machine, second.machine),
            ("data", first.data, second.data),
        )
        for key in sorted(type(ours).model_fields)
    }
    our_segments, their_segments = ("\n".join(run.later_segments()) or "no" for run in (one, other))
    pairs["continued with changes"] = (our_segments, their_segments)
    pairs |= {"precision": (first.precision, second.precision), "code": (first.core, second.core)}
    ours, theirs = first.sources(), second.sources()
    pairs |= {f"source of {part}": (ours[part], theirs[part]) for part in sorted(ours.keys() & theirs.keys())}
    rows = [(what, _abbreviated(before), _abbreviated(after)) for what, (before, after) in pairs.items() if before != after]
    losses = [
        {"last loss": measured[-1], "best loss": min(measured)} if (measured := _losses(run)) else {} for run in (one, other)
    ]
    for what in losses[0].keys() & losses[1].keys():
        before, after = (each[what] for each in losses)
        if before != after:
            rows.append((what, shown_loss(before), f"{shown_loss(after)} ({after - before:+.4f})"))
    return rows


def _losses(run: RunFolder) -> list[float]:
    return [row.val_loss for row in run.rows() if row.val_loss is not None]


def _abbreviated(value: Any) -> str:
    """A value as text; of a fingerprint only the first 12 digits."""
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
