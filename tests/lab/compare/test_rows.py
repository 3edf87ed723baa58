"""Tests that costs and tokens are those of the sequences that are trained, where rows are shorter than block_size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minigpt.contracts import Dataset, Sequences, Splits
from minigpt.data import load_corpus
from minigpt.lab.compare.plan import Settings, make_plan
from minigpt.lab.cost import measure_cost
from minigpt.lab.report.content import content_of_runs
from minigpt.model import build_model
from minigpt.reading import load_experiment
from minigpt.registry import register
from minigpt.training import fitting
from tests.lab.compare.conftest import Write, train_here

LENGTH, BLOCK_SIZE, UPDATES, BATCH = 6, 64, 6, 4

pytestmark = pytest.mark.usefixtures("task")


@pytest.fixture
def task() -> None:
    @register("dataset", "short-rows")
    class ShortRows(Dataset):
        """Rows of six tokens."""

        def __init__(self) -> None:
            pass

        def load(self) -> Splits:
            tokens = np.random.default_rng(0).permutation(7**LENGTH)[:40, None] // 7 ** np.arange(LENGTH) % 7
            train, val = (Sequences(part, part[:, ::-1].copy(), part >= 0) for part in (tokens[:32], tokens[32:]))
            return Splits(train, val, 7)


def on_rows(write: Write, name: str, **model: Any) -> Path:
    return write(name, data={"name": "short-rows"}, model={"block_size": BLOCK_SIZE, **model})


def test_tokens_and_operations_are_those_of_the_rows(write: Write) -> None:
    plan = make_plan(
        [on_rows(write, "base"), on_rows(write, "variant", ffn="glu")], Settings(noise=False, seeds=1, device="cpu")
    )
    train_here(plan.grid)
    for cell, variant in zip(plan.grid.cells, plan.judge().variants, strict=True):
        assert variant.tokens == cell.run.rows()[-1].tokens == UPDATES * BATCH * LENGTH
        assert variant.cost.context == LENGTH
        counted = measure_cost(build_model(cell.variant.experiment, 7), LENGTH)
        assert variant.training_flops == counted.train_flops * variant.tokens
        assert counted.train_flops < measure_cost(build_model(cell.variant.experiment, 7)).train_flops
        (uncompared,) = content_of_runs([cell.run.path]).comparison.variants
        assert (uncompared.tokens, uncompared.cost.context) == (variant.tokens, LENGTH)


def test_the_flops_budget_is_that_of_the_rows(write: Write) -> None:
    """Only in rows of block_size tokens would the variant's attention cost as much as its feed-forward saves."""
    files = [on_rows(write, "base", attention={"window": 1}), on_rows(write, "variant", ffn={"expansion": 2.0})]
    base, variant = make_plan(files, Settings(noise=False, seeds=1, device="cpu", budget="flops")).variants
    each = [measure_cost(build_model(one.experiment, 7), LENGTH).train_flops for one in (base, variant)]
    updates = variant.experiment.training.max_iters
    assert updates == round(UPDATES * each[0] / each[1])
    whole = [measure_cost(build_model(one.experiment, 7)).train_flops for one in (base, variant)]
    assert updates != round(UPDATES * whole[0] / whole[1])


def test_the_memory_that_a_run_needs_is_that_of_its_rows(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment(on_rows(write, "base", block_size=4096))
    corpus, cpu = load_corpus(experiment), torch.device("cpu")
    needs = fitting.estimate(experiment, 7, cpu, "fp32", length=LENGTH)
    monkeypatch.setattr(fitting, "available_memory", lambda device: needs.memory + 1)
    fitting.refuse_what_cannot_fit(experiment, corpus, Path(), cpu, "fp32")
    assert fitting.estimate(experiment, 7, cpu, "fp32").memory > needs.memory + 1
