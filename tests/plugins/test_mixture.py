from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minigpt.contracts import Splits
from minigpt.errors import DataError, ExperimentError
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, plugins
from tests.conftest import Command
from tests.plugins.conftest import ROOT, Train


@pytest.fixture
def corpora(tmp_path: Path) -> list[dict[str, Any]]:
    """Two folders with two documents each: letters a and b, digits 0 and 1; 90 % of each are for training."""
    for name, characters, length in (("letters", "ab", 1000), ("digits", "01", 200)):
        (tmp_path / name).mkdir()
        for character in characters:
            (tmp_path / name / f"{character}.txt").write_text(character * (length // 2))
    return [{"name": "text", "paths": [str(tmp_path / name)]} for name in ("letters", "digits")]


def load(datasets: list[Any], weights: list[float], **params: Any) -> Splits:
    chosen = {"name": "mixture", "datasets": datasets, "weights": weights, **params}
    splits = REGISTRY.resolve("dataset", chosen).build().load()
    assert isinstance(splits, Splits)
    return splits


def counted(text: Any) -> list[int]:
    return [sum(text.count(character) for character in characters) for characters in ("ab", "01")]


@pytest.mark.parametrize(
    ("weights", "repeats", "expected"),
    [
        ([1.0, 1.0], 1.0, [180, 180]),  # the digits are used up first
        ([3.0, 1.0], 1.0, [540, 180]),
        ([50.0, 1.0], 1.0, [900, 18]),  # here the letters
        ([2.0, 2.0], 5.0, [900, 900]),
        ([1.0, 3.0], 0.5, [30, 90]),
    ],
)
def test_each_text_has_its_share(corpora: list[Any], weights: list[float], repeats: float, expected: list[int]) -> None:
    splits = load(corpora, weights, repeats=repeats)
    found = counted(splits.train)
    assert found == pytest.approx(expected, abs=12)  # the characters between documents count too
    assert found[0] / found[1] == pytest.approx(weights[0] / weights[1], rel=0.06)


def test_validation_is_that_of_all_texts_whatever_the_weights(corpora: list[Any]) -> None:
    validation = {load(corpora, weights).val for weights in ([1.0, 1.0], [9.0, 1.0])}
    assert len(validation) == 1
    assert counted(*validation) == pytest.approx([100, 20], abs=1)


def test_documents_begin_where_the_texts_say(corpora: list[Any]) -> None:
    splits = load(corpora, [1.0, 1.0], repeats=3.0)
    assert splits.documents is not None
    assert isinstance(splits.train, str)
    ends = (*splits.documents[1:], len(splits.train))
    pieces = [splits.train[start:end].strip() for start, end in zip(splits.documents, ends, strict=True)]
    assert [piece[0] for piece in pieces] == ["a", "b", *"01" * 3][: len(pieces)]
    assert all(len(set(piece)) == 1 for piece in pieces)


def test_what_cannot_be_mixed_is_refused(corpora: list[Any]) -> None:
    with pytest.raises(ExperimentError, match="1 weights for 2 datasets"):
        load(corpora, [1.0])
    with pytest.raises(ExperimentError, match="weights"):
        load(corpora, [1.0, 0.0])
    with pytest.raises(ExperimentError, match="datasets"):
        load(["no-such-dataset", *corpora[1:]], [1.0, 1.0])


def test_rows_of_a_task_are_refused(corpora: list[Any]) -> None:
    plugins.load_file(ROOT / "plugins" / "associative_recall.py")
    rows = {"name": "associative_recall", "rows": 4, "val_rows": 2}
    with pytest.raises(DataError, match="mixture needs texts, but associative_recall returns the rows of a task"):
        load([rows, corpora[0]], [1.0, 1.0])


def test_its_experiment_trains_and_reports_the_shares(
    train_experiment: Train, corpora: list[Any], minigpt: Command, tmp_path: Path
) -> None:
    changes = [f"data.datasets={json.dumps(corpora)}", "model.block_size=32"]
    outcome = train_experiment(*changes, data=None)
    notes = json.loads((outcome.run.path / "provenance.json").read_text())["data"]["notes"]
    assert any("text: 540 of 900 characters for training, 75% of the mixture" in note for note in notes), notes
    assert minigpt("generate", outcome.run.path, "a", "--max-new-tokens", "5")[0] == 0


def test_paths_start_at_the_experiment_file(tmp_path: Path) -> None:
    data = {"name": "mixture", "datasets": [{"name": "text", "paths": ["mine.txt"]}], "weights": [1.0]}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"extends": str(ROOT / "experiments" / "mixture.json"), "data": data}))
    experiment = load_experiment(file)
    assert experiment.data.params["datasets"][0].params["paths"] == [str(tmp_path / "mine.txt")]
