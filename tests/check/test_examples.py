"""What breaks a property is reported with its smallest example, in a component or a whole experiment."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from minigpt.check import Violation, check, check_component, component_target, experiment_target
from minigpt.check.property import SUITE
from minigpt.contracts import Context, Dims, FeedForward, Norm, State
from minigpt.errors import PluginError
from minigpt.model import GPT
from minigpt.reading import load_experiment
from minigpt.registry import register
from tests.broken import BROKEN, register_broken


@pytest.mark.parametrize(
    ("name", "property_name", "smallest"),
    [
        ("broken_mask_off_by_one", "causality", {"params": {}, "time": 2, "n_layers": 1, "training": False}),
        ("broken_window_one_too_long", "reach", {"n_layers": 1, "training": False}),
        ("broken_state_on_module", "states", {"params": {}, "time": 2, "training": False}),
    ],
)
def test_a_failing_case_is_shrunk(name: str, property_name: str, smallest: dict[str, Any]) -> None:
    candidates = [item for item in BROKEN if item.property == property_name and item.family == "attention"]
    item = next((item for item in candidates if item.name == name), candidates[0])
    register_broken(item)
    (result,) = check_component(item.family, item.name, only=[property_name]).results
    assert result.failure is not None
    assert smallest.items() <= result.failure.example.items()


def test_a_failure_that_only_a_fixed_case_shows_is_reported_with_that_case() -> None:
    @register("ffn", "long_leak")
    class LongLeak(FeedForward):
        """Leaks beyond 100 tokens."""

        def __init__(self, dims: Dims):
            super().__init__()
            self.map = nn.Linear(dims.d_model, dims.d_model)

        def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
            return self.map(x) + (x.mean(1, keepdim=True) if x.shape[1] > 100 else 0)

    (result,) = check_component("ffn", "long_leak", only=["causality"]).results
    assert result.failure is not None
    assert result.failure.example["time"] > 100


def test_the_example_has_the_parameter_that_a_failure_needs() -> None:
    @register("ffn", "dead_gate")
    class DeadGate(FeedForward):
        """Has a gate, if asked for, that it does not use."""

        def __init__(self, dims: Dims, *, gate: bool = False):
            super().__init__()
            self.map = nn.Linear(dims.d_model, dims.d_model)
            self.gate = nn.Parameter(torch.ones(dims.d_model)) if gate else None

        def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
            return self.map(x)

    (result,) = check_component("ffn", "dead_gate", only=["liveness"]).results
    assert result.failure is not None
    assert result.failure.example["params"] == {"gate": True}


class ForgetsNothing(FeedForward):
    """Leaks after twelve passes of all its instances, and has a dead parameter."""

    seen: ClassVar[dict[int, int]] = {}

    def __init__(self, dims: Dims):
        super().__init__()
        self.map = nn.Linear(dims.d_model, dims.d_model)
        self.dead = nn.Parameter(torch.ones(dims.d_model))

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        passes = self.seen[x.shape[-1]] = self.seen.get(x.shape[-1], 0) + 1
        return self.map(x) + (x.mean(1, keepdim=True) if passes > 12 else 0)


def test_an_example_that_holds_in_a_new_process_is_said_to_depend_on_earlier_passes() -> None:
    register("ffn", "forgets_nothing")(ForgetsNothing)
    report = check(component_target("ffn", "forgets_nothing"), only=["tokenwise", "liveness"], in_new_process=True)
    messages = {result.property: result.failure.message for result in report.failures if result.failure}
    assert "in a new process this example holds" in messages["tokenwise"]
    assert "in a new process" not in messages["liveness"]


def test_an_auxiliary_loss_of_several_numbers_is_reported_as_such() -> None:
    @register("ffn", "vector_of_losses")
    class VectorOfLosses(FeedForward):
        """Has a penalty for each token."""

        def __init__(self, dims: Dims):
            super().__init__()
            self.map = nn.Linear(dims.d_model, dims.d_model)

        def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
            ctx.losses.append(x.square().mean(-1))
            return self.map(x)

    (result,) = check_component("ffn", "vector_of_losses", only=["shape"]).results
    assert result.failure is not None
    assert "auxiliary loss of shape [" in result.failure.message
    section = load_experiment({"model": {"d_model": 8, "n_heads": 2, "block_size": 12, "ffn": "vector_of_losses"}}).model
    with pytest.raises(PluginError, match=r"ctx\.losses: an auxiliary loss has the shape \[2, 5\]; append one number"):
        GPT(section, 7).loss(torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long))


@pytest.mark.slow
def test_an_experiment_is_checked_as_composed() -> None:
    layers = [{"attention": "short_conv", "position": "none"}, {"attention": "mha", "ffn": "glu", "block": "sandwich"}]
    model = {"d_model": 16, "n_heads": 2, "n_layers": 2, "block_size": 24, "norm": "rmsnorm", "position": "rope"}
    experiment = load_experiment({"model": {**model, "layers": layers}})
    tried = [
        "shape",
        "causality",
        "gradient",
        "decoding",
        "liveness",
    ]  # without the slow compilation, which scripts/check covers
    report = check(experiment_target(experiment, "hybrid"), only=tried, examples=1)
    assert report.verdict == "pass", [result.failure for result in report.failures]
    assert {result.property for result in report.results} == set(tried)


def test_a_leak_in_a_part_of_an_experiment_is_found() -> None:
    @register("norm", "over_all")
    class OverAll(Norm):
        """Divides by the mean over time and width."""

        def __init__(self, width: int):
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x / (1 + x.abs().mean((-1, -2), keepdim=True))

    small = {"d_model": 8, "n_heads": 2, "n_layers": 2, "block_size": 12, "norm": "over_all"}
    experiment = load_experiment({"model": small})
    report = check(experiment_target(experiment, "mine"), only=["causality"])
    failure = report.results[0].failure
    assert failure is not None
    assert failure.example == {"time": 2, "batch": 2, "vocab": 65, "training": False, "updates": 0, "seed": 0}


def test_every_property_states_itself_in_a_sentence() -> None:
    for prop in SUITE:
        assert prop.says.endswith("."), prop.name
        assert prop.families
    with pytest.raises(TypeError, match="cause"):
        Violation("without a cause")  # type: ignore[call-arg]
