"""`minigpt resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from minigpt.cli.options import NoPlugins, RunArgument, Set, TensorBoard, Trust


def resume(
    run: RunArgument,
    changes: Set = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps, where it is to be another one than before.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads, where they are to be others than before.")
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Continue although code, data or machine changed; exactness is lost.")
    ] = False,
    tensorboard: TensorBoard = False,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Continue a run that was stopped or killed, bit for bit as if it had not been; or any run with changed settings.

    A finished run is trained further with --set training.max_iters=N. The run's history keeps what changed, and from which
    update on; compare does not use such a run.
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
