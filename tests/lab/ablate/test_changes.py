"""Which changes a recipe consists of, and which variants show what they are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minigpt.errors import MinigptError
from minigpt.lab.ablate.changes import Recipe, take_apart
from minigpt.lab.compare import Settings
from minigpt.lab.compare.variants import read_variant
from minigpt.reading import AS_WRITTEN, Reading
from minigpt.run.identity import differing
from tests.lab.ablate.conftest import Extend
from tests.lab.compare.conftest import Write


def apart(recipe: Path, base: Path | None = None, **settings: Any) -> Recipe:
    return take_apart(recipe, base, Settings(**settings), AS_WRITTEN)


def names(recipe: Recipe) -> list[str]:
    return [attempt.change.name for attempt in recipe.alone]


LAYERS = [{"attention": {"window": 4}}, {}]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        pytest.param(
            {"model": {"norm": "rmsnorm", "dropout": 0.1}}, ["model.dropout", "model.norm"], id="a-component-and-a-setting"
        ),
        pytest.param(
            {"model": {"ffn": {"name": "glu", "expansion": 3.0}}, "training": {"optimizer": {"name": "lion"}}},
            ["model.ffn", "training.optimizer"],
            id="a-setting-of-a-new-component-belongs-to-it",
        ),
        pytest.param(
            {"model": {"ffn": {"expansion": 3.0, "activation": "relu"}}},
            ["model.ffn.activation", "model.ffn.expansion"],
            id="settings-of-the-same-component-are-separate",
        ),
        pytest.param(
            {"model": {"n_layers": 2, "layers": LAYERS, "attention": "gqa", "norm": "rmsnorm"}},
            ["model.attention", "model.layers", "model.n_layers", "model.norm"],
            id="the-pattern-of-layers-is-one",
        ),
        pytest.param(
            {
                "seed": 9,
                "description": "x",
                "sampling": {"prompt": "1"},
                "model": {"norm": "rmsnorm"},
                "training": {"batch_size": 8, "max_iters": 3, "eval_interval": 2, "checkpoint_interval": 1},
            },
            ["model.norm", "training.batch_size-training.max_iters", "training.eval_interval"],
            id="the-number-of-tokens-is-kept-only-by-both",
        ),
    ],
)
def test_each_variant_differs_by_one_change_and_nothing_else(extend: Extend, changes: Any, found: list[str]) -> None:
    recipe = apart(extend(**changes))
    assert sorted(names(recipe)) == found
    base, whole = (read_variant(each).experiment.to_file_json() for each in (recipe.base, recipe.recipe))
    assert whole["seed"] == base["seed"] == 5
    for start, attempts, prefix in ((base, recipe.alone, "with"), (whole, recipe.without, "without")):
        for attempt in attempts:
            if attempt.source is None:
                assert attempt.refusal
                continue
            variant = read_variant(attempt.source)
            assert variant.name == f"{prefix}-{attempt.change.name}"
            paths = {path for path, *_ in differing(start, variant.experiment.to_file_json())}
            assert paths == {"name", "description", *(path for path, *_ in attempt.change.settings)} - (
                {"description"} if start["description"] == variant.experiment.description else set()
            )
    assert recipe.family == 1 + sum(attempt.source is not None for attempt in (*recipe.alone, *recipe.without))


def test_a_change_that_is_invalid_alone_is_a_row_with_the_reason(extend: Extend) -> None:
    recipe = apart(extend(model={"d_model": 24, "n_heads": 3}))
    alone = {attempt.change.name: attempt for attempt in recipe.alone}
    without = {attempt.change.name: attempt for attempt in recipe.without}
    assert "n_heads 3 does not divide d_model 16" in alone["model.n_heads"].refusal
    assert "n_heads 3 does not divide d_model 16" in without["model.d_model"].refusal
    for attempt in (alone["model.d_model"], without["model.n_heads"]):
        assert attempt.source is not None
    assert recipe.family == 3


def test_the_base_is_the_named_file_or_what_the_recipe_extends_or_the_defaults(extend: Extend, write: Write) -> None:
    changed = extend(model={"norm": "rmsnorm", "ffn": "glu"})
    other = write("other", model={"norm": "rmsnorm", "dropout": 0.1})
    assert names(apart(changed, other)) == ["model.dropout", "model.ffn"]
    assert apart(changed, other).chosen == "named by --from"
    extended = apart(changed)
    assert (extended.base.path, extended.chosen) == (Path("base.json"), "recipe.json extends it")
    complete = write("complete", model={"block_size": 256}, training={"batch_size": 64, "max_iters": 5000})
    of_defaults = apart(complete)
    base = read_variant(of_defaults.base)
    assert base.name == "defaults"
    assert (base.experiment.model.d_model, base.experiment.model.n_layers) == (384, 6)
    assert {"model.d_model", "model.n_heads", "model.n_layers", "training.eval_interval"} <= set(names(of_defaults))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"val_fraction": 0.2}}, "recipe and base have different data: "),
        ({"tokenizer": "byte"}, "recipe and base have different tokenizers "),
        ({"model": {"block_size": 8}, "training": {"batch_size": 8}}, "recipe and base are validated in windows of "),
        ({"training": {"max_iters": 7}}, "recipe and base are trained on different numbers of tokens (448, 384); --budget"),
        ({"model": {"norm": "rmsnorm"}}, "recipe and base differ in one change (model.norm), so there is nothing to take"),
        ({"sampling": {"prompt": "x"}}, "recipe and base differ in nothing that changes a number, so there is nothing"),
    ],
)
def test_recipes_that_cannot_be_taken_apart_are_refused_in_one_line(extend: Extend, changes: Any, message: str) -> None:
    with pytest.raises(MinigptError) as caught:
        apart(extend(**changes))
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


def test_with_a_budget_the_number_of_updates_is_no_change(extend: Extend) -> None:
    recipe = apart(extend(model={"norm": "rmsnorm", "ffn": "glu"}, training={"max_iters": 9}), budget="tokens")
    assert names(recipe) == ["model.norm", "model.ffn"]
    assert recipe.notes == ("training.max_iters 6 → 9 is no change: --budget sets it",)


def test_a_folder_is_refused(extend: Extend) -> None:
    with pytest.raises(MinigptError, match=r"^\. is a folder: ablate trains variants of a recipe, so name an experiment"):
        apart(Path())


def test_settings_of_the_command_are_no_changes(extend: Extend) -> None:
    file = extend(model={"norm": "rmsnorm", "ffn": "glu", "dropout": 0.1})
    recipe = take_apart(file, None, Settings(), Reading(("model.dropout=0.3",)))
    assert names(recipe) == ["model.norm", "model.ffn"]
    attempt = recipe.alone[0]
    assert attempt.source is not None
    assert read_variant(attempt.source, recipe.reading).experiment.model.dropout == 0.3


PLUGIN = '''
from minigpt import register
from minigpt.components.norm.rmsnorm import RMSNorm

@register("norm", "{name}")
class Named(RMSNorm):
    """RMSNorm by another name."""
    def __init__(self, width: int):
        super().__init__(width)
'''


def test_a_part_of_a_plugin_is_added_to_a_base_that_does_not_name_the_plugin(extend: Extend, write: Write) -> None:
    for name in ("first_norm", "second_norm"):
        Path(f"{name}.py").write_text(PLUGIN.format(name=name))
    other = write("other", plugins=["second_norm.py"], model={"norm": "second_norm"})
    recipe = apart(extend(plugins=["first_norm.py"], model={"norm": "first_norm", "ffn": "glu"}), other)
    assert {file.name for file in recipe.reading.plugin_files} == {"first_norm.py", "second_norm.py"}
    for attempt, norm in ((recipe.alone[0], "first_norm"), (recipe.without[0], "second_norm")):
        assert attempt.source is not None
        experiment = read_variant(attempt.source, recipe.reading).experiment
        assert experiment.model.norm.to_json() == {"name": norm}
        assert any(file.endswith(f"{norm}.py") for file in experiment.plugins)
