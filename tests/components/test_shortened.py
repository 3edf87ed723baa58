"""Tests of datasets with less training data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minigpt.contracts import Sequences, Splits
from minigpt.reading import load_experiment

RECALL = Path(__file__).parents[2] / "plugins/associative_recall.py"


def loaded(data: object) -> Splits:
    return load_experiment({"data": data, "plugins": [str(RECALL)]}).data.build().load()


@pytest.mark.parametrize(("fraction", "kept"), [(1.0, 44), (0.5, 22), (0.26, 11), (1e-6, 1)])
def test_training_text_is_cut_and_the_validation_text_is_the_same(tmp_path: Path, fraction: float, kept: int) -> None:
    for number, text in enumerate(["one" * 7, "two" * 4, "three" * 2]):
        (tmp_path / f"{number}.txt").write_text(text)
    data = {"name": "text", "paths": [str(tmp_path)], "val_fraction": 0.02}
    whole, short = loaded(data), loaded({"name": "shortened", "dataset": data, "fraction": fraction})
    assert isinstance(whole.train, str)
    assert len(whole.train) == 44
    assert short.train == whole.train[:kept]
    assert (short.val, short.val_documents) == (whole.val, whole.val_documents)
    assert short.documents == tuple(start for start in (0, 22, 35) if start < kept)
    assert short.notes == (f"training data: the first {kept} of 44 characters",)


def test_rows_are_cut_too() -> None:
    whole, short = loaded("associative_recall"), loaded({"name": "shortened", "dataset": "associative_recall"})
    assert isinstance(whole.train, Sequences)
    assert isinstance(short.train, Sequences)
    half = len(whole.train.tokens) // 2
    for name, rows in vars(short.train).items():
        assert np.array_equal(rows, getattr(whole.train, name)[:half])
    assert (short.vocab_size, short.alphabet, short.documents) == (whole.vocab_size, whole.alphabet, None)
    assert np.array_equal(short.val.tokens, whole.val.tokens)  # type: ignore[union-attr]
