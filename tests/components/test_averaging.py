"""Optimizers that average the weights of another: their formulas, and that they leave its training as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt.contracts import AveragingOptimizer, MixedPrecisionOptimizer, NamedParameter, Optimizer
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY
from minigpt.registry.spec import locate
from minigpt.run.packing import pack, unpack
from tests.components.optimizers import built, parameters_of, set_gradients
from tests.rounding import assert_formula

KINDS = [((5, 7), "matrix"), ((9, 4), "embedding"), ((4,), "vector"), ((), "vector")]
WRAPPED = [entry.name for entry in REGISTRY.entries("optimizer") if not entry.cls.averages]


def averaging(name: str, parameters: Sequence[NamedParameter], **params: Any) -> AveragingOptimizer:
    optimizer = built(name, parameters, **params)
    assert isinstance(optimizer, AveragingOptimizer)
    return optimizer


def values(parameters: Sequence[NamedParameter]) -> list[Tensor]:
    return [parameter.tensor.detach().clone() for parameter in parameters]


def evaluated(optimizer: AveragingOptimizer, parameters: Sequence[NamedParameter]) -> list[Tensor]:
    """The evaluation weights; the training weights come back bit for bit."""
    trained = values(parameters)
    for _ in range(2):  # a second call changes nothing
        optimizer.eval()
    result = values(parameters)
    for _ in range(2):
        optimizer.train()
    assert all(map(torch.equal, values(parameters), trained))
    return result


def check_formula(name: str, formula: Callable[[list[Tensor]], Tensor], updates: int, **params: Any) -> None:
    """Compare the evaluation weights after each update with a formula of all weights so far."""
    parameters = parameters_of(*KINDS)
    optimizer = averaging(name, parameters, optimizer={"name": "sgd", "learning_rate": 0.1}, **params)
    assert all(map(torch.equal, evaluated(optimizer, parameters), values(parameters))), "no average yet"
    history: list[list[Tensor]] = []
    for number in range(updates):
        set_gradients(parameters, number)
        optimizer.step()
        history.append(values(parameters))
        for index, average in enumerate(evaluated(optimizer, parameters)):
            assert_formula(average, formula([weights[index] for weights in history]), f"{index} after {number + 1}")


@pytest.mark.parametrize(("decay", "start"), [(0.9, 0), (0.5, 3), (0.0, 0)])
def test_ema_weighs_each_update_by_its_age_and_the_initial_weights_not_at_all(decay: float, start: int) -> None:
    def formula(weights: list[Tensor]) -> Tensor:
        if len(weights) <= start:
            return weights[-1]
        ages = range(len(weights) - start - 1, -1, -1)
        total = sum(decay**age for age in ages)
        return torch.stack([decay**age / total * w for age, w in zip(ages, weights[start:], strict=True)]).sum(0)

    check_formula("ema", formula, 9, decay=decay, start=start)


@pytest.mark.parametrize(("k", "every"), [(3, 2), (1, 1), (4, 3)])
def test_lawa_is_the_mean_of_the_latest_weights_taken_at_intervals(k: int, every: int) -> None:
    def formula(weights: list[Tensor]) -> Tensor:
        taken = weights[every - 1 :: every][-k:]
        return torch.stack(taken).mean(0) if taken else weights[-1]

    check_formula("lawa", formula, 3 * k * every, k=k, every=every)


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize(("name", "params"), [("ema", {"decay": 0.5}), ("lawa", {"k": 2, "every": 2})])
def test_the_wrapped_optimizer_trains_as_without_and_continues_bit_for_bit(
    name: str, params: dict[str, Any], wrapped: str
) -> None:
    dtype = torch.float32
    plain, whole, stopped = (parameters_of(*KINDS, dtype=dtype) for _ in range(3))
    alone = built(wrapped, plain)
    around, before = (averaging(name, each, optimizer=wrapped, **params) for each in (whole, stopped))

    def step(optimizer: torch.optim.Optimizer, parameters: Sequence[NamedParameter], number: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + number)  # like a schedule
        set_gradients(parameters, number)
        optimizer.step()

    for number in range(3):
        step(alone, plain, number)
        step(around, whole, number)
        step(before, stopped, number)
    assert all(map(torch.equal, values(plain), values(whole)))
    before.eval()
    tensors: dict[str, Tensor] = {}
    saved, weights = json.loads(json.dumps(pack(before.state_dict(), tensors))), values(stopped)
    resumed = parameters_of(*KINDS, dtype=dtype)
    after = averaging(name, resumed, optimizer=wrapped, **params)
    for parameter, weight in zip(resumed, weights, strict=True):
        parameter.tensor.detach().copy_(weight)
    state = unpack(saved, tensors)
    assert isinstance(state, dict)
    after.load_state_dict(state)
    after.train()
    for number in range(3, 7):
        for optimizer, parameters in ((alone, plain), (around, whole), (after, resumed)):
            step(optimizer, parameters, number)
        assert all(map(torch.equal, values(plain), values(resumed)))
        assert all(map(torch.equal, evaluated(around, whole), evaluated(after, resumed)))


def test_the_precision_reaches_the_wrapped_optimizer() -> None:
    moved = []
    for precision in ("fp32", "bf16"):
        parameters = parameters_of(*KINDS, dtype=torch.float32)
        optimizer = averaging("ema", parameters, optimizer="muon")
        assert isinstance(optimizer, MixedPrecisionOptimizer)
        optimizer.precision = precision
        set_gradients(parameters, 0)
        optimizer.step()
        moved.append(values(parameters)[0])
    assert not torch.equal(*moved)


class Secret(Optimizer):
    """Averages without saying so."""

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return built("schedule_free", parameters)


@pytest.mark.parametrize("name", ["ema", "lawa"])
@pytest.mark.parametrize("wrapped", ["ema", "lawa", "schedule_free"])
def test_averages_are_not_averaged(name: str, wrapped: str) -> None:
    spec = REGISTRY.resolve("optimizer", {"name": name, "optimizer": wrapped})
    locate(spec, "training.optimizer")
    with pytest.raises(ExperimentError, match=f"training.optimizer: {name}: optimizer: {wrapped} averages already; choose"):
        spec.build()


def test_an_optimizer_that_averages_without_saying_so_is_refused() -> None:
    with REGISTRY.temporarily():
        REGISTRY.register("optimizer", "secret")(Secret)
        with pytest.raises(TypeError, match="secret averages, but its class does not say so: `averages = True`"):
            built("ema", parameters_of(*KINDS), optimizer="secret")
