"""How experiments grow from size to size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.lab.ladder.sizes import Growth, Size, growth_of_updates, learning_rate, resized, sizes_of, updates
from minigpt.reading import load_experiment


def experiment(model: dict[str, Any] | None = None, **training: Any) -> Experiment:
    return load_experiment({"model": {"d_model": 128, "n_layers": 4, "n_heads": 4, **(model or {})}, "training": training})


@pytest.mark.parametrize(
    ("model", "sizes", "names"),
    [
        ({}, "0.5,0.75,1", "64x2 96x3 128x4"),
        ({}, "1,0.25,2", "32x1 128x4 256x8"),
        ({}, "128x4, 64x2,100x3", "64x2 100x3 128x4"),
        ({}, "64x2,96x2,128x2", "64x2 96x2 128x2"),
        ({"d_model": 100, "head_dim": 32}, "0.5,1,2", "50x2 100x4 200x8"),
    ],
)
def test_sizes_are_read_and_put_in_order(model: dict[str, Any], sizes: str, names: str) -> None:
    found = sizes_of(Growth(tuple(sizes.split(","))), experiment(model))
    assert " ".join(size.name for size in found) == names


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("64y2,96x3,128x4", '--sizes: found "64y2"; allowed: WIDTHxLAYERS, such as'),
        ("0,1,2", '--sizes: found "0"; allowed'),
        ("", '--sizes: found ""; allowed'),
        ("1e3,2,4", '--sizes: found "1e3"; allowed'),
        ("64x2,128x4", "--sizes: found 64x2, 128x4; a curve needs at least 3 sizes"),
        ("0.5,0.51,1", "--sizes: 0.5,0.51,1 are 64x2, 128x4; name each size once"),
        ("64x4,96x3,128x5", "--sizes: found 64x4, 96x3, 128x5; a wider size must not have fewer layers"),
    ],
)
def test_sizes_that_give_no_curve_are_refused(sizes: str, message: str) -> None:
    with pytest.raises(MinigptError) as refused:
        sizes_of(Growth(tuple(sizes.split(","))), experiment())
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("model", "size", "settings"),
    [
        ({}, Size(96, 3), (96, 3, 3)),
        ({}, Size(100, 1), (100, 2, 1)),  # 3 heads do not divide 100: two of 50 are nearer in width to 32 than five of 20
        ({"d_model": 256, "n_heads": 4, "n_layers": 2}, Size(64, 2), (128, 2, 1)),  # the variant keeps its own proportions
        ({"head_dim": 16}, Size(64, 2), (64, 2, 2)),
    ],
)
def test_a_variant_grows_from_its_own_size_and_its_heads_keep_their_width(
    model: dict[str, Any], size: Size, settings: tuple[int, int, int]
) -> None:
    width, heads, layers = settings
    expected = (f"model.d_model={width}", f"model.n_heads={heads}", f"model.n_layers={layers}")
    assert resized(experiment(model), experiment(), size) == expected


def test_the_learning_rate_follows_the_rule() -> None:
    base = experiment(optimizer={"name": "adamw", "learning_rate": 0.004})
    small = Size(64, 2)
    (setting,) = learning_rate(base, base, small, "mup")
    path, _, value = setting.partition("=")
    assert path == "model.init"
    assert json.loads(value) == {"name": "mup", "base_width": 128, "base_head_dim": 32, "std": base.model.init.params["std"]}
    assert learning_rate(base, base, small, "width") == ("training.optimizer.learning_rate=0.008",)
    assert learning_rate(base, base, small, "same") == ()
    held = experiment({"init": {"name": "completep", "base_width": 32}})
    assert learning_rate(held, base, small, "mup") == (), "an init that holds at all widths is kept"


def test_tokens_grow_with_parameters() -> None:
    base = experiment(batch_size=2, max_iters=100)  # of 2 x 256 tokens
    assert growth_of_updates(Growth(), base, [50, 100], own=100) == [0.5, 1.0]
    assert growth_of_updates(Growth(exponent=0.5), base, [25, 100], own=100) == [0.5, 1.0]
    (factor,) = growth_of_updates(Growth(tokens_per_parameter=20), base, [512], own=100)
    assert updates(base, factor) == "training.max_iters=20"
    assert updates(base, 1e-9) == "training.max_iters=1"
