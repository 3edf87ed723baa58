"""The properties of tokenizers, datasets, optimizers and schedules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigpt.check import check, component_target
from minigpt.check.properties import dataset as dataset_check
from minigpt.check.properties import optimizer as optimizer_check
from minigpt.check.properties import schedule as schedule_check
from minigpt.check.properties import tokenizer as tokenizer_check
from minigpt.components.tokenizer.char import CharTokenizer
from minigpt.errors import TokenizerError
from minigpt.registry import REGISTRY
from tests.check.other_families import MISTAKES, PROPERTIES, Hyperbola, Plain, Reversal, Squares, results_of

NAMES = [(family, entry.name) for family in PROPERTIES for entry in REGISTRY.entries(family)]


@pytest.mark.slow  # scripts/check runs `minigpt check --all`, which covers the same
@pytest.mark.parametrize(("family", "name"), [names for names in NAMES if names[1] != "tinyshakespeare"])
def test_every_shipped_component_has_the_properties_of_its_family(family: str, name: str) -> None:
    for result in results_of(family, name):
        assert result.verdict == "pass", (result.property, result.note, result.failure)
        assert result.tried > (0 if family == "dataset" else 10)


def test_the_check_does_not_download_a_missing_corpus() -> None:
    for result in results_of("dataset", "tinyshakespeare"):
        assert (result.verdict, result.note) == (
            "skip",
            "tinyshakespeare.txt is not downloaded: minigpt data fetch tinyshakespeare",
        )


def family_of(cls: type) -> str:
    return next(family.name for family in REGISTRY.families() if issubclass(cls, family.base))


@pytest.mark.parametrize(("cls", "name", "message"), MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_the_broken_property_reports_a_mistake(cls: type, name: str, message: str) -> None:
    REGISTRY.register(family_of(cls), "mistaken")(cls)
    (result,) = check(component_target(family_of(cls), "mistaken"), only=[name]).results
    assert result.failure is not None, result
    assert message in result.failure.message
    assert result.failure.cause


@pytest.mark.parametrize("cls", [Squares, Reversal, Plain, Hyperbola])
def test_the_correct_base_classes_pass(cls: type) -> None:
    REGISTRY.register(family_of(cls), "right")(cls)
    for result in results_of(family_of(cls), "right"):
        assert result.verdict == "pass", (result.property, result.note, result.failure)


def test_a_tokenizer_for_another_alphabet_may_refuse_to_be_fitted() -> None:
    @REGISTRY.register("tokenizer", "bases")
    class Bases(CharTokenizer):
        def fit(self, text: str) -> None:
            if set(text) - set("acgt"):
                raise TokenizerError("the alphabet is a, c, g and t")
            super().fit("acgt")

    for result in results_of("tokenizer", "bases"):
        assert result.verdict == "pass", (result.property, result.note, result.failure)
        assert result.tried > 5, "texts of its letters are tried"


def test_a_schedule_may_refuse_short_training() -> None:
    @REGISTRY.register("schedule", "long")
    class Long(Hyperbola):
        def __init__(self, max_iters: int):
            if max_iters < 50:
                raise ValueError("at least 50 updates are required")
            super().__init__(max_iters)

    for result in results_of("schedule", "long"):
        assert result.verdict == "pass"
        assert result.tried >= 3


def test_a_separate_validation_file_is_not_a_training_file() -> None:
    target = component_target("dataset", "text")
    cases = [case.params for case in dataset_check._cases(target) if "val_path" in case.params]
    assert cases
    for params in cases:
        assert params["val_path"] not in params["paths"]
        assert Path(params["val_path"]).is_file()


@pytest.mark.parametrize(
    ("outcome", "label", "one", "other"),
    [
        (tokenizer_check.outcome, "tokenizer/bpe", {"vocab_size": 1024}, {"vocab_size": 1025}),
        (tokenizer_check.outcome, "tokenizer/word", {"max_vocab": None}, {"max_vocab": 500}),
        (optimizer_check.outcome, "optimizer/soap", {}, {"precondition_frequency": 8}),
        (optimizer_check.outcome, "optimizer/muon", {}, {"rest": "lion"}),
        (optimizer_check.outcome, "optimizer/schedule_free", {}, {"eps": 1e-7}),
        (schedule_check.outcome, "schedule/wsd", {}, {"warmup_ratio": 0.03}),
    ],
)
def test_an_outcome_is_reproducible_and_depends_on_the_parameters(
    outcome: Callable[..., object], label: str, one: dict[str, Any], other: dict[str, Any]
) -> None:
    target = component_target(*label.split("/"))
    assert outcome(target, one) == outcome(target, one)
    assert outcome(target, one) != outcome(target, other)
