"""Runs that were stopped after 3 of 6 updates, trained once for each optimizer and schedule."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from minigpt.reading import load_experiment
from minigpt.run import RunFolder
from tests.training.conftest import TEXT, Watcher, run
from tests.training.continuing.by_hand import Stopped, document


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """A copy of a run that was stopped after 3 of 6 updates."""
    runs: dict[str, RunFolder] = {}

    def of(folder: Path, optimizer: str = "adamw", schedule: str = "constant") -> RunFolder:
        key = f"{optimizer}-{schedule}"
        if key not in runs:
            place = tmp_path_factory.mktemp(key)
            (place / "corpus.txt").write_text(TEXT[:3000])
            experiment = load_experiment(document(place, optimizer, schedule))
            outcome = run(experiment, place / "runs", Watcher(("updated", 3)))
            assert (outcome.status, outcome.progress.step) == ("stopped", 3)
            runs[key] = outcome.run
        shutil.copytree(runs[key].path, folder / "small" / "seed-1337")
        return RunFolder(folder / "small" / "seed-1337")

    return of
