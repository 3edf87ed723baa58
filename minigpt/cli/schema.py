"""`minigpt schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli.options import PluginFile
from minigpt.cli.terminal import say
from minigpt.printable import printable
from minigpt.system.files import write_output


def schema(
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None,
    plugin: PluginFile = None,
) -> None:
    """Print the JSON Schema of experiment files.

    It contains every registered component and parameter. Set "$schema" in an experiment file to the path of the schema:
    editors then complete names and explain parameters.
    """
    from minigpt.reading.schema import experiment_schema
    from minigpt.registry import plugins

    plugins.load_installed()
    for file in plugin or []:
        plugins.load_file(file)
    text = json.dumps(experiment_schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        say(text, end="")
    else:
        write_output(out, printable(text).encode("utf-8"))
