"""The check of trained models as a whole, at the end of a run and by `minigpt check RUN`."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt.check.after_training import check_after_training
from minigpt.check.property import properties_for
from minigpt.check.suite import TargetReport, check
from minigpt.check.targets import find_targets, run_target
from minigpt.contracts import TokenStream
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run.recorded import ModelCheck
from minigpt.training import Outcome, PlainObserver, train
from tests import tiny
from tests.broken.scorers import BROKEN_SCORERS, BrokenScorer
from tests.unusual.scorers import HONEST, Honest


def trained(folder: Path, **changes: Any) -> Outcome:
    """Train the tiny experiment with changes."""
    file = tiny.write(folder, **changes)
    return train(load_experiment(file), out=folder / "runs", device="cpu", observer=PlainObserver(io.StringIO()))


def checked(outcome: Outcome) -> ModelCheck:
    """Check the trained model as at the end of a run."""
    assert outcome.scorer is not None
    return check_after_training(outcome.run, outcome.scorer.experiment, outcome.scorer.corpus, outcome.scorer.model)


def checked_again(outcome: Outcome, **options: Any) -> TargetReport:
    """Check the saved model as `minigpt check RUN` does."""
    (target,) = find_targets([str(outcome.run.path)])
    assert target.family == "run"
    return check(target, shrink=False, **options)


@pytest.mark.parametrize("item", BROKEN_SCORERS, ids=lambda item: item.name)
def test_a_dishonest_scorer_is_found_at_the_end_of_its_run_and_when_it_is_checked_again(
    item: BrokenScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    REGISTRY.register(item.family, item.name)(item.cls)
    training = {"eval_interval": 4, "precision": getattr(item.cls, "precision", "fp32")}
    outcome = trained(tmp_path, model={item.family: item.name}, training=training)
    scorer = outcome.scorer
    assert scorer is not None
    target = run_target(outcome.run, scorer.experiment, corpus=scorer.corpus, model=scorer.model)
    (result,) = check(target, only={item.property}, quick=True, examples=0, shrink=False).results
    assert (result.verdict, result.failure is not None) == ("fail", True), item.why
    assert checked_again(outcome, only={item.saved_property}).verdict == "fail", item.why


def test_the_check_reads_no_more_of_a_longer_validation_and_leaves_the_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = trained(tmp_path, training={"micro_batch_size": 4})
    scorer, read = outcome.scorer, []
    assert scorer is not None
    scorer.model.register_forward_pre_hook(lambda _, given: read.append(given[0].numel()))
    state, totals = torch.get_rng_state(), []
    for times in (1, 50):
        read.clear()
        corpus = replace(scorer.corpus, val=TokenStream(scorer.corpus.val.ids.repeat(times)))  # type: ignore[union-attr]
        assert check_after_training(outcome.run, scorer.experiment, corpus, scorer.model).violation is None
        totals.append(sum(read))
    assert totals[1] <= 1.1 * totals[0]
    assert torch.equal(state, torch.get_rng_state())


def test_there_are_three_mistakes_for_each_property() -> None:
    counts = Counter(item.property for item in BROKEN_SCORERS)
    assert set(counts) == {prop.name for prop in properties_for("run")}
    assert min(counts.values()) >= 3


@pytest.mark.parametrize("item", HONEST, ids=lambda item: item.name)
def test_an_unusual_part_of_an_honest_scorer_raises_no_alarm(
    item: Honest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    REGISTRY.register(item.family, item.name)(item.cls)
    outcome = trained(tmp_path, model={item.family: item.name}, training={"eval_interval": 4})
    assert [each for each in checked(outcome).properties if each.verdict != "pass"] == [], item.why


UNUSUAL: dict[str, dict[str, Any]] = {
    "experts": {"model": {"ffn": {"name": "moe"}}},
    "a recurrence": {"model": {"attention": "gated_delta_net", "position": "none"}},
    "a window": {"model": {"attention": {"name": "mha", "window": 5}}},
    "a mixture of softmaxes": {"model": {"embedding": {"name": "mixture_of_softmaxes"}}},
    "ids of earlier tokens": {"model": {"embedding": "ngram_hash"}},
    "averaged weights": {"training": {"optimizer": "schedule_free"}},
    "bf16": {"training": {"precision": "bf16"}},
    "a ramped dropout": {"model": {"dropout": 0.5}},
    "one token a window": {"model": {"block_size": 1}},
    "windows longer than the validation": {"model": {"block_size": 256, "position": "rope"}},
    "words": {"tokenizer": "word"},
    "rows with a mask": {
        "plugins": [str(Path(__file__).parents[2] / "plugins/associative_recall.py")],
        "data": {"name": "associative_recall", "n_pairs": 4, "n_queries": 2, "rows": 40, "val_rows": 30},
    },
}


@pytest.mark.parametrize("changes", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_an_unusual_honest_scorer_passes(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = trained(tmp_path, **changes)
    check = checked(outcome)
    assert [each for each in check.properties if each.verdict != "pass"] == []
    assert [(each.property, each.failure) for each in checked_again(outcome).results if each.verdict != "pass"] == []
