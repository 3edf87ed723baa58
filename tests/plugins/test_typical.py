from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt import generate, stream
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY
from tests.conftest import Command
from tests.plugins.conftest import Build, Train


def by_the_paper(row: list[float], mass: float) -> list[float]:
    """Equation 12 in float64: the smallest set by |H + log p| with at least this mass, and its probabilities."""
    weights = [math.exp(value - max(row)) for value in row]
    p = [weight / sum(weights) for weight in weights]
    entropy = -sum(each * math.log(each) for each in p if each > 0)
    distance = [abs(entropy + math.log(each)) if each > 0 else math.inf for each in p]
    kept: list[int] = []
    for index in sorted(range(len(p)), key=distance.__getitem__):
        if sum(p[each] for each in kept) < mass:
            kept.append(index)
    return [each / sum(p[k] for k in kept) if index in kept else 0.0 for index, each in enumerate(p)]


@given(st.floats(0.05, 1), st.integers(1, 40), st.integers(0, 99), st.booleans())
def test_it_is_the_papers_formula(mass: float, vocab: int, seed: int, masked: bool) -> None:
    row = np.random.default_rng(seed).normal(0, 3, vocab)
    if masked:
        row[1:3] = -np.inf
    found = (
        REGISTRY.resolve("sampler", {"name": "typical", "mass": mass}).build().probabilities(torch.tensor(row), [0], None)
    )
    assert found.tolist() == pytest.approx(by_the_paper(row.tolist(), mass), abs=1e-9)


def test_the_most_likely_token_is_removed_where_it_says_less_than_the_average(build: Build) -> None:
    p = torch.tensor([0.4, *[0.06] * 10], dtype=torch.float64)  # H = 2.05 nats; -log p = 0.92 and 2.81
    found = build(mass=0.3).probabilities(p.log(), [0], None)
    assert found[0] == 0
    assert found[1:].count_nonzero() == 5


@pytest.mark.parametrize("mass", [0, 1.5])
def test_invalid_values_are_refused(build: Build, mass: float) -> None:
    with pytest.raises(ExperimentError, match="mass"):
        build(mass=mass)


def test_a_run_with_it_samples_while_it_trains_and_generates(train_experiment: Train, minigpt: Command) -> None:
    outcome = train_experiment()
    assert outcome.sample is not None
    text = generate(outcome.run.path, "The ", seed=1)[0]
    assert text == "".join(stream(outcome.run.path, "The ", seed=1))
    command = ["generate", outcome.run.path, "The ", "--seed", "1"]
    assert minigpt(*command)[1] == f"The {text}\n"
    narrow = minigpt(*command, "--set", "sampling.sampler.mass=0.05", "--max-new-tokens", "30")[1]
    unfiltered = minigpt(*command, "--set", "sampling.sampler=filtered", "--max-new-tokens", "30")[1]
    assert len({narrow, unfiltered, text}) == 3
