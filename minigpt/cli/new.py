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
        typer.Argument(
            help="attention, position, norm, ffn, block, embedding, init, objective, tokenizer, dataset, batching, "
            "optimizer, schedule or sampler."
        ),
    ],
    name: Annotated[str, typer.Argument(help='Name of the component and its files: lower-case letters, digits and "_".')],
    into: Annotated[Path, typer.Option(help="Folder with the subfolders plugins, experiments and tests.")] = Path(),
    base: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Experiment to extend. Default: experiments/baseline.json, if that file exists."),
    ] = None,
) -> None:
    """Create the files of a new component.

    The files are plugins/NAME.py, experiments/NAME.json and tests/test_NAME.py. The generated component works: it passes
    `minigpt check`, trains and decodes. Existing files are never overwritten.
    """
    from minigpt.lab.scaffold import create

    written = create(family, name, into=into, base=base)
    say(f"wrote {written.plugin}\nwrote {written.experiment}: {_extends(written)}\nwrote {written.test}\n\nNext:")
    for command, meaning in _next(written):
        say(f"    # {meaning}\n    {shlex.join(map(str, command))}")


def _extends(written: Scaffold) -> str:
    if written.base is None:
        return "it extends no other file, so all settings that it leaves out have the defaults of the documented baseline"
    quick = written.base.with_name("quickstart.json")
    if written.base.name == "baseline.json" and quick.is_file():
        return f'it extends {written.base}, which trains for hours; extend "{quick.name}" instead for one minute'
    return f"it extends {written.base}"


def _next(written: Scaffold) -> Iterator[tuple[list[str | Path], str]]:
    """The next commands, with the purpose of each: check, train, generate, compare, test."""
    yield ["minigpt", "check", written.plugin], 'edit it (its docstring says where: "Edit first"), then check its contract'
    yield ["minigpt", "run", written.experiment, "--minutes", "2"], "train for two minutes"
    if written.family != "dataset":  # the generated dataset consists of ids, not of text
        run = Path("runs") / written.name / f"seed-{written.seed}"
        yield ["minigpt", "generate", run], "generate text"
    if written.family != "dataset" and written.base is not None:
        yield ["minigpt", "run", written.base, "--minutes", "2"], "train the base, to compare with it"
    yield ["pytest", written.test], "run the check as tests, with an example of your own test"
