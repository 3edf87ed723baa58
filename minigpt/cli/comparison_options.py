"""Options that the commands share which make comparisons: compare, ladder, ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from minigpt.errors import MinigptError, listing, nearest
from minigpt.system.files import check_output

_Budget = Literal["tokens", "flops", "time", "steps"]
_Size = Literal["params", "flops", "state"]
_Unit = Literal["nats", "bits-per-byte"]

Sources = Annotated[
    list[Path], typer.Argument(metavar="BASE VARIANT...", help="Experiment files or run folders. The first is the base.")
]
Seeds = Annotated[
    int | None,
    typer.Option(
        min=1, max=10_000, help="Number of seeds, with one run of each variant per seed. Default: 3, or those of given runs."
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(metavar="WHAT", help="Give each variant the base's budget of tokens, flops, time or steps."),
]
Match = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Resize each variant to the base's params, flops or state, within 1 %."),
]
Knobs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH", help="Setting that --match changes. Repeatable, used in this order. Default: model.ffn.expansion."
    ),
]
Unit = Annotated[str, typer.Option(help="Unit of losses: nats (per token), or bits-per-byte to compare tokenizers.")]
Delta = Annotated[float, typer.Option(min=1e-9, max=100, help="Smallest difference that matters to you.")]
Name = Annotated[str | None, typer.Option(help="Name of the comparison's folder. Default: the base's name.")]
Out = Annotated[Path, typer.Option(help="Folder in which comparison folders are created.")]
Jobs = Annotated[int, typer.Option(min=1, max=1024, help="Number of runs at the same time. They share the cores.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")]
OnlyPlan = Annotated[bool, typer.Option("--plan", help="Only print what would be trained and how long it would take.")]
Retry = Annotated[bool, typer.Option("--retry", help="Train crashed and diverged runs again.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write all results to this JSON file.")]
CsvFile = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write one row per run to this CSV file.")]
MarkdownFile = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Also write the tables to this Markdown file.")
]
Patience = Annotated[float, typer.Option(min=0.01, max=1e5, help="Minutes without progress after which a run is killed.")]


def checked_words(budget: str | None, match: str | None, unit: str, files: list[Path | None]) -> dict[str, Any]:
    """The options that allow only a few words, by the names of their settings.

    Raises:
        MinigptError: A word is not allowed, or an output file cannot be written.
    """
    one_of("--budget", budget, get_args(_Budget))
    one_of("--match", match, get_args(_Size))
    one_of("--unit", unit, get_args(_Unit))
    for file in files:
        if file is not None:
            check_output(file)
    return {"budget": budget, "match": match, "unit": unit}


def one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the allowed words. Raises MinigptError."""
    if value is not None and value not in allowed:
        raise MinigptError(f'{option}: found "{value}"; allowed: {listing(allowed)}{nearest(value, allowed)}')
