"""Options that the commands share which make comparisons: compare, ladder, ablate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from minigpt.errors import MinigptError, listing, nearest
from minigpt.system.files import check_output

if TYPE_CHECKING:
    from minigpt.lab.compare.seeds import SeedRange

_Budget = Literal["tokens", "flops", "time", "steps"]
_Size = Literal["params", "flops", "state"]
_Unit = Literal["nats", "bits-per-byte"]

Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="BASE [VARIANT...]",
        help="Experiment files or run folders. The first is the base; without variants it is compared with itself.",
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Number of seeds, with one run of each variant per seed. Default: 3, or those of given runs. 3..12 adds seeds, "
        "one at a time, for variants without a verdict.",
    ),
]
NoNoise = Annotated[
    bool, typer.Option("--no-noise", help="Do not train a second group of the base's seeds, to compare it with itself.")
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
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="[VARIANT:]PATH=VALUE", help="Change a setting of all, or of one variant. Repeatable."),
]
Grids = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[VARIANT:]PATH=V1,V2",
        help="Make a variant of each file, or of one, for each value of a setting. Repeatable, for all combinations.",
    ),
]
Tunes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH[=V1,V2]",
        help="First choose each variant's best value of a setting, such as learning_rate, with equal trials: five around "
        "its own value, or these. Repeatable, one setting after another.",
    ),
]
TuneSeeds = Annotated[int | None, typer.Option(help="Seeds of each trial of --tune; no verdict uses them. Default: 1.")]
TuneBudget = Annotated[
    float | None, typer.Option(metavar="PART", help="Part of the updates that each trial of --tune has. Default: 1.")
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="A,B", help="Compare on each of these corpora: names of datasets, text files, JSON as for --set data=."
    ),
]
Epochs = Annotated[
    str | None,
    typer.Option(
        metavar="N,M", help="Compare with so many passes over the training text: it is cut, and the budget stays the same."
    ),
]
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
Gate = Annotated[
    bool, typer.Option("--gate", help="Exit with 1 unless every variant is better, and survives the ledger of all verdicts.")
]
Patience = Annotated[float, typer.Option(min=0.01, max=1e5, help="Minutes without progress after which a run is killed.")]


def checked_words(
    budget: str | None, match: str | None, unit: str, files: list[Path | None], knobs: list[str] | None
) -> dict[str, Any]:
    """The options that allow only a few words, and the knobs, by the names of their settings.

    Raises:
        MinigptError: A word is not allowed, nothing uses the knobs, or an output file cannot be written.
    """
    one_of("--budget", budget, get_args(_Budget))
    one_of("--match", match, get_args(_Size))
    one_of("--unit", unit, get_args(_Unit))
    for file in files:
        if file is not None:
            check_output(file)
    if knobs and match is None:
        raise MinigptError(f"--knob {knobs[0]} names what --match changes: add --match params, flops or state")
    return {"budget": budget, "match": match, "unit": unit, "knobs": tuple(knobs or ["model.ffn.expansion"])}


def one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the allowed words. Raises MinigptError."""
    if value is not None and value not in allowed:
        raise MinigptError(f'{option}: found "{value}"; allowed: {listing(allowed)}{nearest(value, allowed)}')


def seed_number(seeds: str | None) -> int | SeedRange | None:
    """The number of seeds, or the range of it, that was typed. Raises MinigptError if it is neither."""
    from minigpt.lab.compare.seeds import parse_seeds

    return None if seeds is None else parse_seeds(seeds)
