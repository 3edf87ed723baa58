"""`minigpt diff`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from minigpt.run import RunFolder

Run = Annotated[Path, typer.Argument(help="A run folder, or an experiment file.")]


def diff(one: Run, other: Run) -> None:
    """Say in what two runs or experiments differ: settings; of runs also code, data, machine and losses."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from minigpt.lab.differences import differences
    from minigpt.reading import load_experiment
    from minigpt.run import RunFolder

    runs = [RunFolder(path) if path.is_dir() else None for path in (one, other)]
    first, second = (
        load_experiment(path) if run is None else run.experiment() for path, run in zip((one, other), runs, strict=True)
    )
    rows = [("seed", str(first.seed), str(second.seed))] if first.seed != second.seed else []
    rows += differences(first.to_json(), second.to_json())
    if runs[0] and runs[1]:
        rows += _of_runs(runs[0], runs[1])
    if not rows:
        typer.echo("they do not differ")
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("what", str(one), str(other)):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def _of_runs(one: RunFolder, other: RunFolder) -> list[tuple[str, str, str]]:
    first, second = one.provenance(), other.provenance()
    pairs: dict[str, tuple[Any, Any]] = {
        f"{section}.{key}": (first[section].get(key), second[section].get(key))
        for section in ("versions", "machine", "data")
        for key in sorted({*first[section], *second[section]})
    }
    ours_then, theirs_then = ("\n".join(run.later_segments()) or "no" for run in (one, other))
    pairs["continued with changes"] = (ours_then, theirs_then)
    pairs |= {"precision": (first["precision"], second["precision"]), "code": (first["core"], second["core"])}
    ours, theirs = ({row["component"]: row["sha256"] for row in each["components"]} for each in (first, second))
    pairs |= {f"source of {part}": (ours[part], theirs[part]) for part in sorted(ours.keys() & theirs.keys())}
    rows = [(what, _short(before), _short(after)) for what, (before, after) in pairs.items() if before != after]
    losses = [
        {"last loss": measured[-1], "best loss": min(measured)} if (measured := _losses(run)) else {} for run in (one, other)
    ]
    for what in losses[0].keys() & losses[1].keys():
        before, after = (each[what] for each in losses)
        if before != after:
            rows.append((what, f"{before:.4f}", f"{after:.4f} ({after - before:+.4f})"))
    return rows


def _losses(run: RunFolder) -> list[float]:
    return [row["val_loss"] for row in run.rows() if "val_loss" in row]


def _short(value: Any) -> str:
    """A fingerprint by its beginning."""
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
