from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.contracts import Sequences, Splits
from minigpt.data import load_corpus, train_batch
from minigpt.errors import DataError, ExperimentError
from minigpt.model import build_model
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from tests.plugins.conftest import ROOT, Build, Train

EXPERIMENT = ROOT / "experiments" / "associative_recall.json"


def load(**params: int) -> Splits:
    splits = REGISTRY.resolve("dataset", {"name": "associative_recall", **params}).build().load()
    assert isinstance(splits, Splits)
    return splits


def halves(splits: Splits) -> list[Sequences]:
    assert isinstance(splits.train, Sequences)
    assert isinstance(splits.val, Sequences)
    return [splits.train, splits.val]


sizes = st.fixed_dictionaries(
    {
        "n_pairs": st.integers(1, 5),
        "n_keys": st.integers(5, 9),
        "n_values": st.integers(2, 9),
        "rows": st.integers(1, 3),
        "val_rows": st.integers(1, 2),
        "seed": st.integers(0, 2**32 - 1),
    }
)


@given(sizes, st.data())
def test_each_query_asks_for_the_value_beside_its_key(params: dict[str, int], data: st.DataObject) -> None:
    n_queries = data.draw(st.integers(1, params["n_pairs"]))
    splits = load(**params, n_queries=n_queries)
    n_keys, n_pairs = params["n_keys"], params["n_pairs"]
    assert splits.vocab_size == n_keys + params["n_values"]
    for rows, count in zip(halves(splits), (params["rows"], params["val_rows"]), strict=True):
        assert rows.tokens.shape == rows.targets.shape == rows.mask.shape == (count, 2 * n_pairs + n_queries)
        assert rows.mask.tolist() == [[False] * 2 * n_pairs + [True] * n_queries] * count
        for tokens, targets in zip(rows.tokens.tolist(), rows.targets.tolist(), strict=True):
            keys, values = tokens[: 2 * n_pairs : 2], tokens[1 : 2 * n_pairs : 2]
            queries = tokens[2 * n_pairs :]
            assert len(set(keys)) == n_pairs
            assert len(set(queries)) == n_queries
            assert all(0 <= key < n_keys for key in keys)
            assert all(n_keys <= value < n_keys + params["n_values"] for value in values)
            assert targets[2 * n_pairs :] == [values[keys.index(query)] for query in queries]


def test_no_row_of_one_split_has_the_pairs_of_another_row() -> None:
    """Even for nearly half of all possible rows: 8 * 7 * 8^2 = 3584."""
    train, val = halves(load(n_pairs=2, n_queries=1, n_keys=8, n_values=8, rows=1600, val_rows=190))
    pairs = [tuple(row[:4]) for rows in (train, val) for row in rows.tokens.tolist()]
    assert len(set(pairs)) == 1790


def test_all_keys_values_and_query_orders_are_equally_frequent() -> None:
    train, _ = halves(load(n_pairs=4, n_queries=2, n_keys=6, n_values=5, rows=6000, val_rows=1))
    for column, symbols in ((0, 6), (7, 5)):
        counts = np.bincount(train.tokens[:, column] - (6 if column == 7 else 0), minlength=symbols)
        assert np.abs(counts / 6000 * symbols - 1).max() < 0.15
    asked = np.argmax(train.tokens[:, :8:2] == train.tokens[:, 8:9], axis=1)
    assert np.abs(np.bincount(asked, minlength=4) / 6000 * 4 - 1).max() < 0.15


def test_the_seed_determines_all_rows() -> None:
    one, same, other = (halves(load(seed=seed, rows=50, val_rows=20)) for seed in (3, 3, 4))
    for a, b, c in zip(one, same, other, strict=True):
        assert np.array_equal(a.tokens, b.tokens)
        assert not np.array_equal(a.tokens, c.tokens)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_pairs": 9, "n_keys": 8}, "n_pairs 9 is more than n_keys 8"),
        ({"n_pairs": 3, "n_queries": 4}, "n_queries 4 is more than n_pairs 3"),
        (
            {"n_pairs": 1, "n_queries": 1, "n_keys": 4, "n_values": 2, "rows": 3, "val_rows": 2},
            "3 rows and 2 val_rows are more than half of the 8 possible rows: increase n_keys",
        ),
        ({"rows": 0}, "rows"),
    ],
)
def test_impossible_rows_are_refused(build: Build, params: dict[str, int], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        build(**params)


def test_rows_fit_exactly_into_the_experiments_model() -> None:
    small = ["data.rows=4", "data.val_rows=2"]
    experiment = load_experiment(EXPERIMENT, overrides=small)
    assert train_batch(load_corpus(experiment), experiment, 0).tokens.shape == (experiment.training.batch_size, 24)
    assert experiment.model.block_size == 24
    with pytest.raises(DataError, match="rows of 24 tokens are longer than model.block_size 23"):
        load_corpus(load_experiment(EXPERIMENT, overrides=[*small, "model.block_size=23"]))


@pytest.mark.slow
def test_its_experiment_trains_and_its_model_learns_a_small_case(train_experiment: Train) -> None:
    """Two pairs of eight keys and values: a guess costs ln 8, one between the two values of a row ln 2."""
    small = ["data.n_pairs=2", "data.n_queries=2", "data.n_keys=8", "data.n_values=8", "data.rows=1500", "data.val_rows=200"]
    longer = ["training.batch_size=64", "model.d_model=32", "model.block_size=6"]
    outcome = train_experiment(*small, *longer, data=None, updates=300)
    assert outcome.val_loss is not None
    assert outcome.val_loss < 0.2 * math.log(2)


def test_an_untrained_model_scores_worse_than_a_guess_among_the_values() -> None:
    experiment = load_experiment(EXPERIMENT, overrides=["data.rows=50", "data.val_rows=50"])
    corpus = load_corpus(experiment)
    batch = next(corpus.val.windows(50, 24))
    model = build_model(experiment, corpus.vocab_size)
    with torch.no_grad():
        loss = model.loss(batch.tokens, batch.targets, batch.mask)[0].item()
    assert loss > math.log(32)
