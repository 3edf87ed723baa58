"""`minigpt report`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli.terminal import say
from minigpt.errors import MinigptError, listing


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="A folder that compare, ladder or ablate made, or folders of runs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Output file. Default: report.html in the comparison's folder; for runs, here."),
    ] = None,
) -> None:
    """Write an HTML page about a comparison, a ladder, an ablation or runs.

    The page begins with what was found, and what was not shown. It shows verdicts, differences, tuning, curves, costs,
    samples and provenance. No code from a run folder is executed.
    Needs the extra "report": pip install 'minigpt-lab[report]'.
    """
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise MinigptError(f"the report needs {listing(missing)}: pip install 'minigpt-lab[report]'")

    from minigpt.lab.report.content import content_of_runs, read_content
    from minigpt.lab.report.page import write_report
    from minigpt.lab.report.study import study_in, write_study
    from minigpt.system.files import check_output

    compared = len(folders) == 1 and (folders[0] / "comparison.json").is_file()
    study = study_in(folders[0]) if len(folders) == 1 and not compared else None
    file = out or (folders[0] / "report.html" if compared or study else Path("report.html"))
    if out is not None:
        check_output(out)
    if study is not None:
        write_study(study, file, is_named=out is not None)
    else:
        content = read_content(folders[0]) if compared else content_of_runs(folders)
        write_report(content, file, is_named=out is not None)
    say(f"{file} ({file.stat().st_size / 1e6:.2f} MB); open it in a browser, or send it by mail")
