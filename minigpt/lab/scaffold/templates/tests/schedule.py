"""The schedule keeps its contract, and stays below the optimizer's peak."""

from __future__ import annotations

from pathlib import Path

from minigpt import load_experiment
from minigpt.testing import conformance

NAME = "my_part"
ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "plugins" / f"{NAME}.py"
EXPERIMENT = ROOT / "experiments" / f"{NAME}.json"


@conformance("schedule", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_the_experiment_trains_at_its_peak_and_never_above() -> None:
    training = load_experiment(EXPERIMENT).training
    schedule = training.schedule.build(training.max_iters)
    factors = [schedule.factor(step) for step in range(training.max_iters)]
    assert max(factors) == 1
    assert min(factors) >= 0
