"""Fixtures: each test file tests the plugin and the experiment of the same name, which are loaded for it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, plugins
from minigpt.training import Outcome, PlainObserver, train
from tests.conftest import Command

ROOT = Path(__file__).parents[2]

Build = Callable[..., Any]
Train = Callable[..., Outcome]
Use = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def plugin(_own_registry: None, request: pytest.FixtureRequest) -> plugins.Plugin:
    """The plugin plugins/NAME.py for tests/plugins/test_NAME.py."""
    return plugins.load_file(ROOT / "plugins" / f"{request.path.stem.removeprefix('test_')}.py")


@pytest.fixture
def build(plugin: plugins.Plugin) -> Build:
    """A function that builds the plugin's component from the family's arguments and JSON parameters."""
    (label,) = plugin.registered
    family, name = label.split("/")

    def built(*received: Any, **params: Any) -> Any:
        return REGISTRY.resolve(family, {"name": name, **params}).build(*received)

    return built


@pytest.fixture
def train_experiment(plugin: plugins.Plugin, tmp_path: Path) -> Train:
    """A function that trains the plugin's experiment for a few updates on a small text, with further overrides."""
    (tmp_path / "corpus.txt").write_text("".join(f"The square of {n} is {n * n}.\n" for n in range(2000)))
    corpus = f'data={{"name": "text", "paths": ["{(tmp_path / "corpus.txt").as_posix()}"]}}'
    small = ["model.d_model=16", "model.n_layers=2", "training.batch_size=4", "sampling.max_new_tokens=8"]

    def trained(*overrides: str, data: str | None = corpus, updates: int = 4) -> Outcome:
        file = ROOT / "experiments" / f"{plugin.path.stem}.json"
        changes = [*small, *([data] if data else []), f"training.max_iters={updates}", *overrides]
        experiment = load_experiment(file, overrides=changes)
        assert plugin.registered[0] in {f"{spec.family}/{spec.name}" for spec in experiment.specs()}
        assert experiment.plugins == [str(plugin.path)]
        assert experiment.name == plugin.path.stem
        assert experiment.description
        outcome = train(experiment, out=tmp_path / "runs", device="cpu", observer=PlainObserver(io.StringIO()))
        assert (outcome.run.path / "plugins" / plugin.path.name).read_bytes() == plugin.path.read_bytes()
        assert [row.step for row in outcome.run.rows()] == list(range(1, updates + 1))
        return outcome

    return trained


@pytest.fixture
def use(plugin: plugins.Plugin, train_experiment: Train, minigpt: Command) -> Use:
    """A function that does what a user does: check the plugin, train its experiment, and generate from the run."""

    def used(*overrides: str) -> Outcome:
        code, out, err = minigpt("check", plugin.path, "--quick")
        assert code == 0, out + err
        assert "no property broken" in out
        outcome = train_experiment(*overrides)
        rows = outcome.run.rows()
        assert rows[-1].train_loss < rows[0].train_loss
        code, out, err = minigpt("generate", outcome.run.path, "The ", "--max-new-tokens", "12", "--seed", "1")
        assert code == 0, err
        assert out.startswith("The ")
        assert len(out) == len("The ") + 12 + 1
        return outcome

    return used
