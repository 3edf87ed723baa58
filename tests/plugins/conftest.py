"""Each test file is about the plugin of its name, which is loaded for it, and about the experiment of that name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, plugins
from minigpt.training import Outcome, PlainObserver, train

ROOT = Path(__file__).parents[2]

Build = Callable[..., Any]
Train = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def plugin(_own_registry: None, request: pytest.FixtureRequest) -> plugins.Plugin:
    """tests/plugins/test_NAME.py is about plugins/NAME.py."""
    return plugins.load_file(ROOT / "plugins" / f"{request.path.stem.removeprefix('test_')}.py")


@pytest.fixture
def build(plugin: plugins.Plugin) -> Build:
    """Builds the plugin's component: what its family hands over, then parameters as they stand in the JSON."""
    (label,) = plugin.registered
    family, name = label.split("/")

    def built(*received: Any, **params: Any) -> Any:
        return REGISTRY.resolve(family, {"name": name, **params}).build(*received)

    return built


@pytest.fixture
def train_experiment(plugin: plugins.Plugin, tmp_path: Path) -> Train:
    """Trains the experiment of the plugin's name for a few updates on little text, changed by further overrides."""
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
