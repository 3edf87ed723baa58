"""`minigpt resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from minigpt.cli.check import check_trained, fail_if_violated
from minigpt.cli.options import NoPlugins, RunArgument, Set, TensorBoard, Trust


def resume(
    run: RunArgument,
    changes: Set = None,
    device: Annotated[
        str | None, typer.Option(help="Device: auto, cpu, cuda or mps. Default: the same device as before.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Number of CPU threads. Default: as many as before.")
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Continue although the code, data or machine changed. The result is then no longer bit-identical.",
        ),
    ] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Check the trained model at the end.")] = True,
    tensorboard: TensorBoard = False,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Continue a run that was stopped or killed. The result is bit for bit that of an uninterrupted run.

    With --set, continue any run with changed settings: --set training.max_iters=N trains a finished run further. The run's
    history records each change and its update. `minigpt compare` does not use such a run.
    """
    from minigpt import training
    from minigpt.cli.display import observer_for_terminal, report

    observer = observer_for_terminal()
    if tensorboard or (run / "tensorboard").is_dir():
        observer = training.TensorBoardObserver(observer)
    outcome = training.resume(
        run,
        overrides=changes or (),
        device=device,
        threads=threads,
        accept_changes=accept_changes,
        allow_plugins=not no_plugins,
        trust=trust,
        observer=observer,
    )
    report(outcome)
    fail_if_violated(outcome, check_trained(outcome) if check else None)
