"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from minigpt.reading import Reading
    from minigpt.run import RunFolder

MOST_TOKEN_IDS = 1 << 20
"""Largest vocabulary that a command accepts."""

ExperimentFile = Annotated[Path, typer.Argument(help="An experiment file, such as experiments/quickstart.json.")]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart/seed-1337.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a setting, such as model.attention.name=gqa. Repeatable."),
]
SetSampling = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change sampling.*, such as sampling.sampler=mirostat. Repeatable."),
]
PluginFile = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="Also load this plugin file, which executes it. Repeatable."),
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard logs, to RUN/tensorboard.")]
Trust = Annotated[bool, typer.Option("--trust", help="Execute the plugins in the run folder, and trust them from now on.")]
NoPlugins = Annotated[
    bool, typer.Option("--no-plugins", help="Load no plugins, and refuse an experiment or run that needs one.")
]


def reading_of(
    changes: list[str] | None = None, plugin: list[Path] | None = None, no_plugins: bool = False, trust: bool = False
) -> Reading:
    """The options of a command as one `Reading`."""
    from minigpt.reading import Reading

    return Reading(tuple(changes or ()), tuple(plugin or ()), not no_plugins, trust)


def run_at(path: Path) -> RunFolder | None:
    """The run in a folder, or the run to which an experiment.json belongs; None for any other file."""
    from minigpt.run import RunFolder

    if path.is_dir():
        return RunFolder(path)
    is_in_run = path.name == "experiment.json" and os.path.lexists(path.parent / "provenance.json")
    return RunFolder(path.parent) if is_in_run else None
