"""`minigpt new`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minigpt.cli.terminal import say

if TYPE_CHECKING:
    from minigpt.lab.scaffold import Scaffold


def new(
    family: Annotated[
        str,
        typer.Argument(help="attention, position, norm, ffn, block, tokenizer, dataset, optimizer or schedule."),
    ],
    name: Annotated[str, typer.Argument(help='Of the part and its files: lower-case letters, digits and "_".')],
    into: Annotated[Path, typer.Option(help="The folder that has plugins, experiments and tests.")] = Path(),
    base: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The experiment to extend; without it experiments/baseline.json, if it is there."),
    ] = None,
) -> None:
    """Begin a part of your own: plugins/NAME.py, experiments/NAME.json and tests/test_NAME.py.

    The part works as it is written: it passes its check, trains and decodes. Nothing is ever overwritten.
    """
    from minigpt.lab.scaffold import create

    written = create(family, name, into=into, base=base)
    say(f"wrote {written.plugin}\nwrote {written.experiment}: {_extends(written)}\nwrote {written.test}\n\nNext:")
    for command, meaning in _next(written):
        say(f"    # {meaning}\n    {shlex.join(map(str, command))}")


def _extends(written: Scaffold) -> str:
    if written.base is None:
        return "it extends no other, so what it does not say is as in the documented baseline"
    quick = written.base.with_name("quickstart.json")
    if written.base.name == "baseline.json" and quick.is_file():
        return f'it extends {written.base}, hours of training; "{quick.name}" in its place takes a minute'
    return f"it extends {written.base}"


def _next(written: Scaffold) -> Iterator[tuple[list[str | Path], str]]:
    """Commands from here to a compared variant."""
    yield ["minigpt", "check", written.plugin], "edit it where it says so, and see that it keeps its contract"
    yield ["minigpt", "run", written.experiment, "--minutes", "2"], "train for two minutes"
    if written.family != "dataset":  # the one that is written is of ids, and has no text
        run = Path("runs") / written.name / f"seed-{written.seed}"
        yield ["minigpt", "generate", run], "let it write"
    if written.family != "dataset" and written.base is not None:
        yield ["minigpt", "run", written.base, "--minutes", "2"], "what it is to be compared with"
    yield ["pytest", written.test], "the check as tests, and one of your own to go on from"
