"""`minigpt run`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minigpt.cli.check import check_trained, fail_if_violated, pass_gate
from minigpt.cli.options import ExperimentFile, NoPlugins, PluginFile, Set, TensorBoard, Trust, reading_of

if TYPE_CHECKING:
    from minigpt.experiment import Experiment


def run(
    experiment: ExperimentFile,
    changes: Set = None,
    seed: Annotated[int | None, typer.Option(help="Random seed for weights, data order, dropout and samples.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: the experiment's name.")] = None,
    out: Annotated[Path, typer.Option(help="Folder in which run folders are created.")] = Path("runs"),
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1e6, help="Train for about this many minutes: adapts the number of updates and the schedule."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Number of CPU threads. Default: torch's choice.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start a new run. An existing run of this name is renamed and kept.")
    ] = False,
    check: Annotated[
        bool | None,
        typer.Option(
            "--check/--no-check",
            help="Check everything in full before training; or nothing, before or after it. Default: quick checks.",
        ),
    ] = None,
    tensorboard: TensorBoard = False,
    plugin: PluginFile = None,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Train a model as described in an experiment file. All results are written to runs/NAME/seed-N.

    Components from plugins are first checked for a few seconds, and the trained model at the end. A model that fails the
    first check is not trained. A trained model that fails is saved, and the exit code is 1.
    """
    from minigpt.reading import read_experiment

    overrides = _overrides(changes, seed, name)
    loaded = read_experiment(experiment, reading_of(overrides, plugin, no_plugins, trust))
    if check is not False:
        _check(loaded, experiment, overrides, in_full=check is True)
    from minigpt.cli.display import observer_for_terminal, report
    from minigpt.training import TensorBoardObserver, train

    observer = observer_for_terminal()
    outcome = train(
        loaded,
        out=out,
        minutes=minutes,
        device=device,
        threads=threads,
        fresh=fresh,
        allow_plugins=not no_plugins,
        trust=trust,
        observer=TensorBoardObserver(observer) if tensorboard else observer,
    )
    report(outcome, experiment, loaded)
    fail_if_violated(outcome, None if check is False else check_trained(outcome))


def _overrides(changes: Sequence[str] | None, seed: int | None, name: str | None) -> list[str]:
    overrides = list(changes or [])
    if seed is not None:
        overrides.append(f"seed={seed}")
    if name is not None:
        overrides.append(f"name={json.dumps(name)}")  # quoted, so that a name such as 3 stays text
    return overrides


def _check(experiment: Experiment, file: Path, overrides: Sequence[str], *, in_full: bool) -> None:
    from minigpt.check.gate import check_before_training

    gate = check_before_training(experiment, str(file), overrides, in_full=in_full)
    pass_gate(gate, advice="; --no-check trains it anyway")
