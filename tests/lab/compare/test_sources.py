"""Tests of the words from which variants are made: `--set VARIANT:PATH=VALUE` and `--grid`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.errors import MinigptError
from minigpt.experiment import refusal_of_name
from minigpt.lab.compare.sources import made_names, sources_from, split_values, value_of
from minigpt.lab.compare.variants import read_variants
from minigpt.reading import Reading
from tests.lab.compare.conftest import Write

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda word: word not in ("true", "false", "null"))


@given(st.lists(JSON, min_size=1, max_size=5), st.sampled_from([",", ", "]))
def test_json_values_are_separated_at_the_commas_between_them(values: list[object], comma: str) -> None:
    assert [json.loads(text) for text in split_values(comma.join(map(json.dumps, values)))] == values


@given(st.lists(WORDS | st.sampled_from(["C:\\data", 'half "quoted', "1e-3x", "[open"]), min_size=1, max_size=5))
def test_texts_are_separated_at_every_comma(values: list[str]) -> None:
    assert list(split_values(",".join(values))) == values
    assert [value_of(value) for value in values] == values


def test_plain_files_and_settings_are_passed_on_without_being_read() -> None:
    sources, changes = sources_from([Path("missing.json")], ["data.paths=C:/a,b=c:d"])
    assert [source.path for source in sources] == [Path("missing.json")]
    assert changes == ("data.paths=C:/a,b=c:d",)


@pytest.mark.parametrize(
    ("changes", "own", "shared"),
    [
        (["other:model.n_layers=2"], {"other": ("model.n_layers=2",)}, ()),
        (["base:a=1", "b=2", "base:c=x:y=z"], {"base": ("a=1", "c=x:y=z")}, ("b=2",)),
        (["v1.5:a=1", "v1.5:data.paths=C:\\a"], {"v1.5": ("a=1", "data.paths=C:\\a")}, ()),
        (["data.weights.C:/x=2"], {}, ("data.weights.C:/x=2",)),
        (["model:model.n_layers=2"], {"model": ("model.n_layers=2",)}, ()),
        (["base:no value"], {"base": ("no value",)}, ()),
    ],
)
def test_a_setting_may_be_for_one_variant(
    write: Write, changes: list[str], own: dict[str, tuple[str, ...]], shared: tuple[str, ...]
) -> None:
    names = ["base", "other", "v1.5", "model"]
    sources, overrides = sources_from([write(name) for name in names], changes)
    assert {name: source.settings for name, source in zip(names, sources, strict=True) if source.settings} == own
    assert overrides == shared


@pytest.mark.parametrize(
    ("changes", "grids", "message"),
    [
        (["othr:a=1"], [], r'^--set othr:a=1: there is no variant "othr"; allowed: base, other; did you mean "other"\?$'),
        ([], ["othr:a=1,2"], r'^--grid othr:a=1,2: there is no variant "othr".*did you mean "other"\?$'),
        (
            ["base-gqb:a=1"],
            ["model.attention=gqa"],
            r'allowed: base, base-gqa, other, other-gqa; did you mean "base-gqa"\?$',
        ),
        ([], ["a"], r'^--grid: found "a"; allowed: PATH=v1,v2, such as model.attention=mha,gqa$'),
        ([], ["a=1,,2"], r'^--grid: found "a=1,,2"; allowed'),
        ([], ["seed=1,2"], r"^--grid seed makes no variants: all variants have the same seeds, see --seeds. Name another"),
        ([], ["base: name =a,b"], r"^--grid name makes no variants: variants are named by their values. Name another"),
        ([], ["=1,2"], r'^--grid: found "=1,2"; allowed'),
        ([], ["a=1", "base:a=2"], r"^--grid a is given more than once for base; name all its values in one --grid$"),
    ],
)
def test_a_mistake_in_a_word_is_one_line(write: Write, changes: list[str], grids: list[str], message: str) -> None:
    with pytest.raises(MinigptError, match=message):
        sources_from([write("base"), write("other")], changes, grids)


def test_a_grid_makes_a_variant_of_each_file_for_each_combination(write: Write) -> None:
    files = [write("base"), write("deep", model={"n_layers": 2})]
    grids = ["model.attention=mha,gqa", "base:training.optimizer.learning_rate=3e-4,0.001"]
    sources, overrides = sources_from(files, ["base:model.n_heads=4", "base-gqa-learning_rate-0.001:seed=7"], grids)
    assert overrides == ()
    variants = {variant.name: variant.experiment for variant in read_variants(sources)}
    assert list(variants) == [
        "base",
        "base-mha-learning_rate-0.001",
        "base-gqa-learning_rate-3e-4",
        "base-gqa-learning_rate-0.001",
        "deep",
        "deep-gqa",
    ], "values that a file has already make no further variant"
    assert [each.model.n_heads for each in variants.values()] == [4, 4, 4, 4, 2, 2], "also in what is made from a file"
    assert [each.model.attention.name for each in variants.values()] == ["mha", "mha", "gqa", "gqa", "mha", "gqa"]
    assert [each.seed for each in variants.values()] == [5, 5, 5, 7, 5, 5]
    assert {each.description for each in variants.values()} == {""}


def test_two_spellings_of_one_value_are_one_variant(write: Write) -> None:
    sources, _ = sources_from([write("base")], [], ["model.ffn.expansion=4,2,2.0"])
    assert [variant.name for variant in read_variants(sources)] == ["base", "base-expansion-2"]


def test_settings_for_all_lie_beneath_a_grid(write: Write) -> None:
    sources, overrides = sources_from([write("base")], ["model.n_layers=2"], ["model.n_layers=1,2"])
    found = read_variants(sources, Reading(overrides))
    assert {variant.name: variant.experiment.model.n_layers for variant in found} == {"base": 2, "base-n_layers-1": 1}


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        (("model.attention", "gqa"), "base-gqa"),
        (("model.attention", '"gqa"'), "base-gqa"),
        (("training.optimizer.learning_rate", "0.001"), "base-learning_rate-0.001"),
        (("model.ffn.bias", "true"), "base-bias-true"),
        (("model.attention", '{"name": "gqa", "n_kv_heads": 2}'), r"base-attention-name-gqa-n_kv_heads-2-[0-9a-f]{8}"),
        (("data.paths", "C:\\a b"), r"base-C-a-b-[0-9a-f]{8}"),
        (("description", "long" * 99), r"base-(long){21}l-[0-9a-f]{8}"),
        (("description", "ä"), r"base-[0-9a-f]{8}"),
    ],
)
def test_a_made_name_explains_itself(setting: tuple[str, str], name: str) -> None:
    (made,) = made_names("base", [[setting]])
    assert re.fullmatch(name, made)


@given(st.lists(st.lists(st.tuples(WORDS, JSON.map(json.dumps) | WORDS), min_size=1, max_size=2), min_size=1, max_size=4))
def test_made_names_are_unique_folder_names(combined: list[list[tuple[str, str]]]) -> None:
    different = [list(each) for each in dict.fromkeys(map(tuple, combined))]
    names = made_names("base", different)
    assert len(set(names)) == len(names)
    assert not [name for name in names if refusal_of_name(name)]
    apart = [name for each in different for name in made_names("base", [each])]
    kept = [one == other for one, other in zip(names, apart, strict=True)]
    assert all(kept) or len(set(apart)) < len(apart), "a name depends on the other settings only where two would be equal"
