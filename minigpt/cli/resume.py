"""`minigpt resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from minigpt.cli.options import NoPlugins, RunArgument, TensorBoard, Trust


def resume(
    run: RunArgument,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although code, data or machine changed; exactness is lost.")
    ] = False,
    tensorboard: TensorBoard = False,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Go on with a run that was stopped or killed, bit for bit as if it had not been."""
    from minigpt import training
    from minigpt.cli.display import observer_for_terminal, report
    from minigpt.run import RunFolder

    observer = observer_for_terminal()
    if tensorboard or (run / "tensorboard").is_dir():
        experiment = RunFolder(run).experiment(allow_plugins=not no_plugins, trust=trust)
        observer = training.TensorBoardObserver(observer, experiment)
    outcome = training.resume(
        run, accept_changes=accept_changes, allow_plugins=not no_plugins, trust=trust, observer=observer
    )
    report(outcome)
