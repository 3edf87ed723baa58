"""Fixtures: a small experiment on a small text, with a plugin that can signal its process at a chosen update."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigpt.experiment import Experiment
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run import MetricsRow, RunFolder
from minigpt.training import Outcome, PlainObserver, train

# An ordinary schedule that can also send its own process a signal when a given update begins.
INTERRUPTING = '''
import os, signal
from minigpt import register
from minigpt.contracts import Schedule

@register("schedule", "interrupting")
class Interrupting(Schedule):
    """Half the peak, until it ends the process."""
    def __init__(self, max_iters: int):
        pass
    def factor(self, step: int) -> float:
        if os.environ.get("END_AT") == str(step):
            os.kill(os.getpid(), getattr(signal, os.environ["END_BY"]))
        return 0.5
'''

TEXT = "".join(f"{a} times {b} is {a * b}.\n" for a in range(2, 30) for b in range(2, 30))

Write = Callable[..., Path]


class Watcher(PlainObserver):
    """An observer that counts events, and can send a signal at the n-th event of a kind."""

    def __init__(self, interrupt: tuple[str, int] | None = None):
        self.out = io.StringIO()
        super().__init__(self.out, every_seconds=0)
        self.interrupt, self.counts = interrupt, dict.fromkeys(("updated", "evaluating", "evaluated"), 0)

    def count(self, kind: str) -> None:
        self.counts[kind] += 1
        if self.interrupt == (kind, self.counts[kind]):
            signal.raise_signal(signal.SIGTERM)

    def updated(self, row: MetricsRow) -> None:
        super().updated(row)
        self.count("updated")

    def evaluating(self, done: int, total: int) -> None:
        self.count("evaluating")

    def evaluated(self, row: MetricsRow, best: bool, sample: str | None) -> None:
        super().evaluated(row, best, sample)
        self.count("evaluated")


def run(experiment: Experiment, out: Path, observer: Watcher | None = None) -> Outcome:
    return train(experiment, out=out, device="cpu", observer=observer or Watcher())


@pytest.fixture
def write_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes an experiment of 40 updates; keyword arguments go into its training section.

    The test runs in the experiment's folder, because a command without --out locks `runs/` in the working folder. Otherwise
    two test processes of one checkout would refuse each other.
    """
    monkeypatch.chdir(tmp_path)
    return writer(tmp_path)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunFolder]:
    """An uninterrupted run of the experiment that `write_experiment` writes with the same arguments; trained once."""
    runs: dict[str, RunFolder] = {}

    def of(**training: Any) -> RunFolder:
        key = json.dumps(training, sort_keys=True)
        if key not in runs:
            folder = tmp_path_factory.mktemp("undisturbed")
            runs[key] = run(load_experiment(writer(folder)(**training)), folder).run
        return runs[key]

    return of


def writer(folder: Path) -> Write:
    """A function that writes experiments to the folder."""

    def write(name: str = "small", *, dropout: float = 0.2, **training: Any) -> Path:
        (folder / "corpus.txt").write_text(TEXT)
        (folder / "interrupting.py").write_text(INTERRUPTING)
        document = {
            "name": name,
            "plugins": ["interrupting.py"],
            "data": {"name": "text", "paths": ["corpus.txt"]},
            "model": {"d_model": 32, "n_heads": 2, "n_layers": 2, "block_size": 32, "dropout": dropout},
            "training": {
                "schedule": "interrupting",
                "optimizer": {"learning_rate": 1e-2},
                "batch_size": 8,
                "max_iters": 40,
                "eval_interval": 15,
                "checkpoint_interval": 10,
                "precision": "fp32",
                **training,
            },
            "sampling": {"max_new_tokens": 12},
        }
        if training.get("optimizer"):
            document["training"]["optimizer"] = training["optimizer"]
        file = folder / f"{name}.json"
        file.write_text(json.dumps(document))
        return file

    return write


def with_learning_rate(optimizer: str) -> dict[str, Any]:
    """A registered optimizer, or one that averages another's weights, with a rate at which short runs learn something."""
    wraps = "optimizer" in REGISTRY.entry("optimizer", optimizer).params.model_fields
    rate = {"learning_rate": 1e-2}
    often = {"every": 3} if optimizer == "lawa" else {}
    return {"name": optimizer, **often, **({"optimizer": {"name": "adamw", **rate}} if wraps else rate)}
