from __future__ import annotations

import pytest
import torch

from minigpt.errors import ExperimentError
from minigpt.model import GPT, build_model, optimizer_of
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from tests.conftest import Command
from tests.plugins.conftest import ROOT, Build, Train

SMALL = ["model.d_model=32", "model.n_layers=3", "training.optimizer.learning_rate=1.0"]


def model(*overrides: str, file: str = "layer_decay") -> GPT:
    return build_model(load_experiment(ROOT / "experiments" / f"{file}.json", overrides=[*SMALL, *overrides]), 50)


def rates(built: GPT) -> dict[str, float]:
    """The learning rate of every parameter, from the optimizer's groups."""
    experiment = load_experiment(ROOT / "experiments" / "layer_decay.json", overrides=SMALL)
    optimizer = optimizer_of(experiment.training.optimizer, built)
    of = {id(tensor): group["lr"] for group in optimizer.param_groups for tensor in group["params"]}
    return {name: of[id(tensor)] for name, tensor in built.named_parameters()}


def test_rates_fall_from_the_output_to_the_input() -> None:
    found = rates(model("model.init.decay=0.5", "model.embedding.tied=false"))
    expected = {"blocks.0.": 0.125, "blocks.1.": 0.25, "blocks.2.": 0.5, "norm.": 1.0, "head.": 1.0, "embedding.": 0.0625}
    for name, rate in found.items():
        (right,) = (value for start, value in expected.items() if name.startswith(start))
        assert rate == right, name
    assert {start for start in expected if any(name.startswith(start) for name in found)} == set(expected)


def test_the_inner_initialisation_decides_on_optimizers_and_on_stacked_matrices() -> None:
    inner = '{"name": "layer_decay", "init": {"name": "mup", "base_width": 16}}'
    built, plain = model(f"model.init={inner}"), model('model.init={"name": "mup", "base_width": 16}', file="quickstart")
    assert (built.init.matrix_std, built.init.residual_std) == (plain.init.matrix_std, plain.init.residual_std)
    with pytest.raises(ExperimentError, match="choose an adaptive one"):
        optimizer_of(REGISTRY.resolve("optimizer", "sgd"), built)


def test_its_factors_multiply_those_of_the_inner_initialisation() -> None:
    inner = '{"name": "layer_decay", "decay": 0.5, "init": {"name": "mup", "base_width": 16}}'
    wrapped, plain = model(f"model.init={inner}"), model('model.init={"name": "mup", "base_width": 16}', file="quickstart")
    for (name, one), (_, other) in zip(rates(wrapped).items(), rates(plain).items(), strict=True):
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else None
        below = 3 - layer if layer is not None else 4 if name.startswith("embedding.") else 0
        assert one == pytest.approx(other * 0.5**below), name
    assert wrapped.init.logit_factor == plain.init.logit_factor == 0.5
    assert wrapped.init.score_factor == plain.init.score_factor != 1
    for one, other in zip(wrapped.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_decay_of_one_changes_nothing() -> None:
    assert set(rates(model("model.init.decay=1.0")).values()) == {1.0}


@pytest.mark.parametrize("decay", [0, 11])
def test_invalid_values_are_refused(build: Build, decay: float) -> None:
    with pytest.raises(ExperimentError, match="decay"):
        build(None, decay=decay)


def test_its_experiment_trains_and_lower_layers_move_less(train_experiment: Train, minigpt: Command) -> None:
    outcome = train_experiment("model.init.decay=0.001", "training.schedule=constant")
    experiment = load_experiment(outcome.run.path / "experiment.json")
    assert experiment.model.init.params["decay"] == 0.001
    assert minigpt("generate", outcome.run.path, "The ", "--max-new-tokens", "5")[0] == 0
