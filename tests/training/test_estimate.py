"""The estimated time of a training, with updates that take known times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from minigpt.contracts import Batch
from minigpt.data import alike_updates, load_corpus, tokens_trained, train_batch
from minigpt.experiment import Experiment
from minigpt.model import build_model
from minigpt.reading import load_experiment
from minigpt.training import estimate


def experiment(path: Path, block_size: int = 16, **training: Any) -> Experiment:
    (path / "corpus.txt").write_text("".join(f"{a} times {b} is {a * b}.\n" for a in range(20) for b in range(20)))
    return load_experiment(
        {
            "data": {"name": "text", "paths": [str(path / "corpus.txt")]},
            "model": {"d_model": 8, "n_heads": 2, "n_layers": 1, "block_size": block_size},
            "training": {"batch_size": 4, "precision": "fp32", "compile": False, **training},
            "sampling": {"max_new_tokens": 2},
        }
    )


def clocked(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[Batch], float]) -> list[Batch]:
    """Let an update take these seconds on the clock of the estimate; returns the batches that were used."""
    used: list[Batch] = []
    time = [0.0]

    def compute(model: Any, batch: Batch, *_: Any) -> torch.Tensor:
        used.append(batch)
        time[0] += seconds(batch)
        return torch.zeros(3)

    monkeypatch.setattr(estimate, "compute_gradients", compute)
    monkeypatch.setattr(estimate, "take_step", lambda *_: None)
    monkeypatch.setattr(estimate, "time", Mock(perf_counter=lambda: time[0]))
    return used


GROWING: list[dict[str, Any]] = [
    {},
    {"multiple": 1, "over": 0.3, "context": 0.125},
    {"multiple": 1, "over": 1.0, "context": 0.125, "batch": 0.25},
    {"over": 0.9, "context": 0.125, "equal_tokens": True},
]


def slow(batch: Batch) -> float:
    """A time with a fixed part and one for pairs of tokens."""
    return 0.001 + 1e-5 * batch.tokens.numel() * (1 + batch.tokens.shape[1] / 64)


@pytest.mark.parametrize("params", GROWING)
def test_the_speed_is_the_mean_over_the_whole_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any]
) -> None:
    """The median of a few updates was that of the large ones, which may be 1.4 of the mean."""
    one = experiment(tmp_path, block_size=64, max_iters=1000, batch_size=16, batching={"name": "growing", **params})
    corpus = load_corpus(one)
    true = sum(slow(train_batch(corpus, one, step)) for step in range(1000)) / 1000
    clocked(monkeypatch, slow)
    model = build_model(one, corpus.vocab_size)
    trial = estimate.Trial(one, corpus, model, "fp32")
    assert [trial.update() for _ in range(5)] == pytest.approx([true] * 5, rel=0.02)
    monkeypatch.setattr(estimate, "_evaluation_seconds", lambda *_: 0.0)
    speed = estimate.measure_speed(one, corpus, model, "fp32")
    assert speed.seconds(one) == pytest.approx(1000 * true, rel=0.02)
    assert speed.updates_within(one, 60) == pytest.approx(60 / true, rel=0.02)


def test_updates_of_one_size_are_timed_at_places_of_the_whole_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = experiment(tmp_path, max_iters=100)
    corpus = load_corpus(one)
    used = clocked(monkeypatch, lambda _: 0.125)
    trial = estimate.Trial(one, corpus, build_model(one, corpus.vocab_size), "fp32")
    assert [trial.update() for _ in range(6)] == [0.125] * 6
    for batch, step in zip(used, [0, 61, 23, 85, 47, 9], strict=True):
        assert torch.equal(batch.tokens, train_batch(corpus, one, step).tokens)


def test_updates_are_grouped_by_their_shape(tmp_path: Path) -> None:
    one = experiment(tmp_path, max_iters=40, batching={"name": "growing", "multiple": 4, "context": 0.25})
    groups = alike_updates(one, most=8)
    corpus = load_corpus(one)
    assert sorted(step for group in groups for step in group.steps) == list(range(40)), "each shape has its own group"
    assert sum(group.share for group in groups) == pytest.approx(1)
    for group in groups:
        assert {tuple(train_batch(corpus, one, step).tokens.shape) for step in group.steps} == {(4, int(group.tokens) // 4)}
    (most,) = alike_updates(one, most=1)
    assert (most.share, list(most.steps)) == (1, list(range(20, 40))), "of the middle shape"
    assert sum(group.share * group.tokens for group in alike_updates(one, most=2)) == tokens_trained(one) / 40
    (whole,) = alike_updates(experiment(tmp_path, max_iters=3_000_001), most=8)
    assert (whole.share, whole.tokens, len(whole.steps)) == (1, 64, 10_000)


def test_the_rest_of_a_training_takes_as_long_as_its_tokens(tmp_path: Path) -> None:
    one = experiment(tmp_path, max_iters=40, batching="growing")
    speed = estimate.Speed(update=1.0, evaluation=0.0, spread=(1.0, 1.0))
    assert speed.seconds(one, 30) == pytest.approx(40 * tokens_trained(one, first_step=30) / tokens_trained(one))
    assert speed.seconds(one, 30) > 11
