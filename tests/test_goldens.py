"""Goldens must not change unnoticed. `pytest tests/test_goldens.py --update-goldens` rewrites them; read the diff."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from minigpt.cli import app
from minigpt.data import load_corpus, train_batch
from minigpt.model import build_model
from minigpt.reading import load_experiment
from minigpt.reading.schema import experiment_schema
from minigpt.training.loop import compute_gradients
from tests.rounding import gamma

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.json"))

Check = Callable[[Path, Any], None]


@pytest.fixture
def check(request: pytest.FixtureRequest) -> Check:
    def compare(file: Path, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        if request.config.getoption("--update-goldens"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert file.is_file(), f"{file} is missing: run with --update-goldens"
        assert text == file.read_text("utf-8"), f"{file} differs: run with --update-goldens and read the diff"

    return compare


def relative(document: dict[str, Any]) -> dict[str, Any]:
    """Replace absolute paths of plugin files by paths that are equal on any machine."""
    return {**document, "plugins": [Path(file).relative_to(ROOT).as_posix() for file in document["plugins"]]}


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_shipped_experiment_resolves_to_its_golden(file: Path, check: Check) -> None:
    check(GOLDEN / "experiments" / file.relative_to(ROOT / "experiments"), relative(load_experiment(file).to_json()))


def test_the_published_schema_matches_the_registry(check: Check) -> None:
    check(ROOT / "docs" / "experiment.schema.json", experiment_schema())


def test_the_page_of_components_matches_the_registry(request: pytest.FixtureRequest) -> None:
    answer = CliRunner().invoke(app, ["list", "--markdown"])
    assert answer.exit_code == 0
    head = "# Components\n\nEverything that an experiment can name. Made by `minigpt list --markdown`.\n\n"
    page = ROOT / "docs" / "components.md"
    if request.config.getoption("--update-goldens"):
        page.write_text(head + answer.output, encoding="utf-8")
    assert page.read_text("utf-8") == head + answer.output, f"{page} is stale: run with --update-goldens"


def test_parameters_keep_their_names_shapes_and_initial_sizes(check: Check) -> None:
    table = {}
    for file in EXPERIMENTS:
        model = build_model(load_experiment(file), 65)
        table[file.stem] = {
            name: f"{' x '.join(map(str, tensor.shape))}, std {tensor.double().std(unbiased=False).item():.4g}"
            for name, tensor in model.named_parameters()
        }
    check(GOLDEN / "parameters.json", table)


def test_the_first_losses_do_not_change(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A refactoring must not change them. They depend on torch's random numbers, but not on a processor's rounding.

    They are computed in float64 from weights and dropout that are drawn in fp32. Processors draw the same numbers up to the last
    rounding of each, which changes a loss by at most a few roundings of fp32.
    """
    (tmp_path / "corpus.txt").write_text("".join(f"{n} is {n * n}; " for n in range(2000)))
    experiment = load_experiment(
        {
            "data": {"name": "text", "paths": [str(tmp_path / "corpus.txt")]},
            "model": {"d_model": 32, "n_heads": 4, "n_layers": 2, "block_size": 32},
            "training": {"batch_size": 8},
        }
    )
    corpus = load_corpus(experiment)
    model = build_model(experiment, corpus.vocab_size).double()
    optimizer = experiment.training.optimizer.build().build(list(model.named_roles()))
    losses = []
    for step in range(8):
        torch.manual_seed(step)
        losses.append(compute_gradients(model, train_batch(corpus, experiment, step), experiment, "fp32")[0].item())
        optimizer.step()
        optimizer.zero_grad()
    file = GOLDEN / "losses.json"
    if request.config.getoption("--update-goldens"):
        file.write_text(json.dumps(losses, indent=2) + "\n")
    assert losses == pytest.approx(json.loads(file.read_text()), rel=gamma(16))


def test_the_exported_names_are_those_of_the_golden_list(check: Check) -> None:
    """A name that users import is neither dropped nor added by accident."""
    exported = {}
    for name in ("minigpt", "minigpt.contracts", "minigpt.kernels", "minigpt.testing"):
        module = importlib.import_module(name)
        assert [each for each in module.__all__ if not hasattr(module, each)] == []
        exported[name] = sorted(module.__all__)
    check(GOLDEN / "exports.json", exported)
