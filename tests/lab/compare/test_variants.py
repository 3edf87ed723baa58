from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from minigpt.data import tokens_trained
from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.lab.compare.matching import matched_budget, matched_size
from minigpt.lab.compare.variants import (
    Variant,
    check_comparable,
    read_variants,
)
from minigpt.lab.cost import measure_cost
from minigpt.model import build_model, build_model_on_meta
from minigpt.reading import Reading
from tests.lab.compare.conftest import Write


def variants(write: Write, **variant: Any) -> list[Variant]:
    return read_variants([write("base"), write("variant", **variant)])


def test_variants_are_read_in_order_and_named_by_their_experiments(write: Write) -> None:
    found = read_variants([write("base"), write("b"), write("a")], Reading(("training.max_iters=9",)))
    assert [variant.name for variant in found] == ["base", "b", "a"]
    assert {variant.experiment.training.max_iters for variant in found} == {9}


def test_two_variants_with_the_same_name_are_refused(write: Write) -> None:
    with pytest.raises(MinigptError, match=r'b\.json and .*base\.json are both named "base"; give one of them another'):
        read_variants([write("base"), write("b", name="base")])


def test_a_file_that_is_named_twice_is_one_variant(write: Write) -> None:
    base, other = write("base"), write("other")
    assert [variant.name for variant in read_variants([base, Path("base.json"), other])] == ["base", "other"]
    assert len(read_variants([base, base])) == 1


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        pytest.param(
            {"data": {"val_fraction": 0.2}}, r"variant and base have different data: text \(.*val_fraction 0.2", id="data"
        ),
        pytest.param(
            {"tokenizer": "byte"}, r"different tokenizers \(byte.*, char.*\).*--unit bits-per-byte", id="tokenizer"
        ),
        pytest.param(
            {"model": {"block_size": 8}, "training": {"batch_size": 8}},
            r"windows of different length .*8, 16\)",
            id="window",
        ),
        pytest.param(
            {"training": {"max_iters": 7}}, r"different numbers of tokens \(448, 384\); --budget tokens", id="tokens"
        ),
    ],
)
def test_variants_that_cannot_be_compared_are_refused_by_name(write: Write, variant: dict[str, Any], message: str) -> None:
    with pytest.raises(MinigptError, match=message) as caught:
        check_comparable(variants(write, **variant), unit="nats", budget=None)
    assert len(str(caught.value).splitlines()) == 1


def test_tokenizers_can_be_compared_in_bits_per_byte_and_budgets_matched(write: Write) -> None:
    check_comparable(variants(write, tokenizer="byte"), unit="bits-per-byte", budget=None)
    check_comparable(variants(write, training={"max_iters": 7}), unit="nats", budget="tokens")
    check_comparable(variants(write, model={"attention": "gqa"}), unit="nats", budget=None)


def flops(experiment: Experiment) -> int:
    return measure_cost(build_model(experiment, 23)).train_flops


@pytest.mark.parametrize(
    ("budget", "updates"),
    [("steps", 60), ("tokens", 30), ("time", 20), ("flops", 15)],
)
def test_budgets_give_the_variant_as_much_as_the_base_has(write: Write, budget: Any, updates: int) -> None:
    base, variant = variants(write, training={"batch_size": 8})
    base = base.with_training({"max_iters": 60}, "longer")
    ratio = {"time": 3.0, "flops": 4.0}.get(budget, 1.0)
    matched = matched_budget(base, variant, budget, ratio, "3.0 ± 0.1" if budget == "time" else "")
    assert matched.experiment.training.max_iters == updates
    measured = "; 3.0 ± 0.1" if budget == "time" else ""
    assert matched.adjusted == (f"training.max_iters 6 → {updates} (--budget {budget}{measured})",)
    if budget == "tokens":
        assert tokens_trained(matched.experiment) == tokens_trained(base.experiment)


def test_a_variant_that_has_the_budget_already_is_not_changed(write: Write) -> None:
    base, variant = variants(write)
    assert matched_budget(base, variant, "tokens") is variant
    assert matched_budget(base, variant, "time", 1.001, "1.001 ± 0.020").adjusted == (
        "training.max_iters stays 6 (--budget time; 1.001 ± 0.020)",
    )


def parameters(experiment: Experiment) -> int:
    return build_model_on_meta(experiment.model, 23).n_parameters()


@pytest.mark.parametrize(
    ("variant", "knobs", "size_of"),
    [
        pytest.param({"ffn": "glu"}, ["model.ffn.expansion"], parameters, id="a-factor"),
        pytest.param(
            {"ffn": {"name": "glu", "expansion": 8.0}}, ["model.d_model", "model.ffn.expansion"], parameters, id="a-width"
        ),
        pytest.param({"attention": "gqa", "position": "rope"}, ["model.ffn.expansion"], flops, id="operations"),
    ],
)
def test_a_knob_is_changed_until_sizes_agree(write: Write, variant: dict[str, Any], knobs: list[str], size_of: Any) -> None:
    base = write("base", model={"d_model": 64, "n_layers": 2})
    variant_file = write("variant", model={"d_model": 64, **variant})
    one, other = read_variants([base, variant_file])
    target = size_of(one.experiment)
    matched = matched_size(target, other, knobs, size_of, "params")
    assert abs(size_of(matched.experiment) - target) <= 0.01 * target
    for knob, note in zip(knobs, matched.adjusted, strict=True):
        assert re.fullmatch(rf"{re.escape(knob)} [\d.]+ → [\d.]+ \(--match params\)", note)
    ours, theirs = matched.experiment.to_json()["model"], other.experiment.to_json()["model"]
    assert ours != theirs
    changed = {key for key in ours if ours[key] != theirs[key]}
    assert changed == {knob.split(".")[1] for knob in knobs}, "nothing else is changed"


def test_a_knob_is_changed_in_every_layer_that_takes_it_from_the_model(write: Write) -> None:
    """The same as with `--set`: a layer that changes another setting of the same part keeps the model's value."""
    model = {"d_model": 64, "n_layers": 3}
    layers = [{"ffn": {"activation": "relu"}}, {}, {"ffn": {"expansion": 2.0}}]
    base = write("wide", model={**model, "ffn": {"expansion": 6.0}})
    one, other = read_variants([base, write("variant", model={**model, "layers": layers})])
    target = parameters(one.experiment)
    matched = matched_size(target, other, ["model.ffn.expansion"], parameters, "params")
    found = matched.experiment.to_json()["model"]
    expansion = found["ffn"]["expansion"]
    layer_expansions = [(layer["ffn"] or found["ffn"])["expansion"] for layer in found["layers"]]
    assert layer_expansions == [expansion, expansion, 2.0]
    by_hand = read_variants([base, Path("variant.json")], Reading((f"model.ffn.expansion={expansion}",)))[1]
    assert by_hand.experiment == matched.experiment


def test_knobs_are_changed_one_after_another_and_after_settings_of_the_command(write: Write) -> None:
    base = write("base", model={"d_model": 64})
    one, other = read_variants([base, write("variant", model={"d_model": 32})], Reading(("model.n_layers=2",)))
    matched = matched_size(parameters(one.experiment), other, ["model.d_model", "model.n_heads"], parameters, "params")
    assert matched.experiment.model.n_layers == 2
    assert matched.experiment.model.d_model == 64


def test_a_size_that_is_near_enough_is_not_changed(write: Write) -> None:
    one, other = variants(write)
    assert matched_size(parameters(one.experiment), other, ["model.ffn.expansion"], parameters, "params") is other


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        (
            "model.ffn.expansoin",
            r'--knob model.ffn.expansoin: variant has no "expansoin" in model.ffn; did you mean "expansion"',
        ),
        ("model.attention", r"--knob model.attention: found \{.*\} in variant; a number that increases the size is needed"),
        (
            "model.n_heads",
            r"variant: model.n_heads cannot bring its params within 1 % of the base's [\d,]+; the nearest is [\d,]+.*finer",
        ),
    ],
)
def test_a_knob_that_cannot_match_the_size_is_reported(write: Write, knob: str, message: str) -> None:
    one, other = read_variants([write("base"), write("variant", model={"d_model": 32})])
    with pytest.raises(MinigptError, match=message):
        matched_size(parameters(one.experiment), other, [knob], parameters, "params")


def test_a_folder_without_runs_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MinigptError, match=r"empty is not a run folder"):
        read_variants([write("base"), tmp_path / "empty"])
