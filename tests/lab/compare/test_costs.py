"""Tests that the costs of models are counted once for all experiments that share them."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from minigpt.data import load_corpus
from minigpt.lab.compare import costs as module
from minigpt.lab.compare.costs import Costs
from minigpt.reading import AS_WRITTEN, load_experiment
from tests.lab.compare.conftest import Write


def test_only_what_changes_a_cost_is_counted_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    count = Mock(side_effect=lambda *_: object())
    monkeypatch.setattr(module, "measure_training_cost", count)
    file, costs = write("base"), Costs(AS_WRITTEN)
    corpus = load_corpus(load_experiment(file))

    def cost(*settings: str) -> object:
        return costs.of(load_experiment(file, overrides=settings), corpus)

    base = cost()
    for same in ("training.optimizer.learning_rate=0.1", "seed=9", "name=other"):
        assert cost(same) is base
    for other in ("model.n_layers=2", "training.batch_size=2", "training.max_iters=7"):
        assert cost(other) is not base
    assert count.call_count == 4
