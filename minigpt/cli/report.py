"""`minigpt report`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from minigpt.errors import MinigptError, listing


def report(
    folder: Annotated[Path, typer.Argument(help="A comparison's folder, such as comparisons/quickstart.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page; report.html in the folder without it.")] = None,
) -> None:
    """Write a comparison as one HTML page: verdicts, curves, costs, differences, samples, provenance.

    Needs the extra "report": pip install 'minigpt-lab[report]'.
    """
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise MinigptError(f"the report needs {listing(missing)}: pip install 'minigpt-lab[report]'")

    from minigpt.lab.report.content import read_content
    from minigpt.lab.report.page import write_report

    content = read_content(folder)
    file = out or folder / "report.html"
    if not file.parent.is_dir():
        raise MinigptError(f"{file}: there is no folder {file.parent}")
    write_report(content, file)
    typer.echo(f"{file} ({file.stat().st_size / 1e6:.2f} MB); open it in a browser, or mail it")
