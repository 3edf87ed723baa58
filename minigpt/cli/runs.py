"""`minigpt runs`."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minigpt.cli.terminal import say
from minigpt.numbers import UNKNOWN, age, shown_loss, size

if TYPE_CHECKING:
    from minigpt.run import RunFolder


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder to search, including subfolders.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List runs: progress, losses, age and size. Runs that `minigpt run --fresh` renamed are left out."""
    from minigpt.errors import RunError
    from minigpt.run import RunFolder
    from minigpt.run.recorded import NOT_CHECKED
    from minigpt.run.status import Status
    from minigpt.system.files import entries_below

    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}; to create a run: minigpt run experiments/quickstart.json")
    files = sorted(Path(entry.path) for entry in entries_below(folder) if entry.name == "experiment.json")
    folders = [RunFolder(file.parent) for file in files if ".old-" not in file.parent.name and not _is_within_a_run(file)]
    rows = [_row(run) for run in folders]
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    if not rows:
        say(f"there are no runs in {folder}")
        return

    from rich import box
    from rich.table import Table

    from minigpt.cli.drawing import terminal

    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("run", "state"):
        table.add_column(title, overflow="fold")
    for title in ("update", "last loss", "best loss", "age", "size"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        losses = (shown_loss(row[key]) for key in ("last", "best"))
        style = {Status.RUNNING: "green", Status.FINISHED: "", Status.STOPPED: ""}.get(row["state"], "red")
        numbers = f"{row['step']:,}/{row['max_iters']:,}" if row["max_iters"] else UNKNOWN
        state = row["state"] + (f", {row['segments']} segments" if row["segments"] > 1 else "")
        if row["state"] is Status.FINISHED:
            state += f", {NOT_CHECKED}" if row["check"] == NOT_CHECKED else ", checked"
        table.add_row(row["run"], state, numbers, *losses, age(row["age"]), size(row["bytes"]), style=style)
    console = terminal()
    console.print(table)
    for row in rows:
        violated = f"{row['run']}: {row['check']}" if row["state"] is Status.VIOLATED else None
        for line in (row["problem"], violated):
            if line is not None:
                console.print(line, style="red", soft_wrap=True)


def _is_within_a_run(file: Path) -> bool:
    """Whether it is an experiment.json of a plugin folder that a run has copied."""
    return any(above.name == "plugins" and (above.parent / "experiment.json").exists() for above in file.parents)


def _row(run: RunFolder) -> dict[str, Any]:
    """The row of one run. A run that cannot be read gets a row with the problem, so that the others are still listed."""
    from minigpt.errors import MinigptError
    from minigpt.run.status import Status
    from minigpt.system.files import entries_below

    sizes, times = [0], [0.0]
    for entry in entries_below(run.path):
        try:
            status = entry.stat()
        except OSError:  # deleted meanwhile: a run in progress removes old checkpoints
            continue
        if stat.S_ISREG(status.st_mode):
            sizes.append(status.st_size)
            times.append(status.st_mtime)
    row: dict[str, Any] = {
        "run": str(run.path),
        "state": Status.DAMAGED,
        "step": 0,
        "max_iters": None,
        "last": None,
        "best": None,
        "segments": 1,
        "check": None,
        "age": time.time() - max(times),
        "bytes": sum(sizes),
        "problem": None,
    }
    try:
        row["max_iters"], records, stands = run.max_iters(), run.rows(), run.status()
        row["segments"] = 1 + len(run.later_segments())
        row["check"] = run.stamp() if run.is_finished() else None
    except MinigptError as error:
        return {**row, "problem": str(error)}
    losses = [each.val_loss for each in records if each.val_loss is not None]
    row["step"] = records[-1].step if records else 0
    row |= {
        "state": stands,
        "last": losses[-1] if losses else None,
        "best": min(losses, default=None),
    }
    return row
