"""The check before a run: it finds leaks that only the experiment's own settings show."""

from __future__ import annotations

from typing import Annotated

import pytest
import torch
from pydantic import Field
from torch import Tensor

from minigpt.check.gate import check_before_training
from minigpt.contracts import Dims
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from tests.broken.attention import Plain
from tests.broken.attention_conditions import SeesAhead


class SeesAheadIfAsked(SeesAhead):
    """Softmax attention.

    Args:
        dims: The model's sizes.
        ahead: Distance of a later token that each token also sees; 0 for none.
    """

    def __init__(self, dims: Dims, *, ahead: Annotated[int, Field(ge=0, le=64)] = 0):
        super().__init__(dims, ahead=ahead)


class NoMaskAtOneWidth(Plain):
    """Softmax attention."""

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.has_the_width = dims.d_model == 48

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return torch.ones_like(seen) if self.has_the_width and self.training and len(q_positions) > 33 else seen


@pytest.mark.parametrize(
    ("cls", "changes", "block_size"),
    [(SeesAheadIfAsked, {"ahead": 40}, 64), (NoMaskAtOneWidth, {}, 256)],
    ids=["parameter", "width"],
)
def test_a_leak_that_only_the_experiments_own_settings_and_length_show_is_found(
    cls: type, changes: dict[str, int], block_size: int
) -> None:
    REGISTRY.register("attention", "leaks_here")(cls)
    attention = {"name": "leaks_here", **changes}
    model = {"d_model": 48, "n_heads": 2, "n_layers": 2, "block_size": block_size, "attention": attention}
    report = check_before_training(
        load_experiment({"model": model, "training": {"max_iters": 10}}), "mine.json", [], in_full=False
    )
    assert report is not None
    assert next(result.property for target in report.broken for result in target.failures) == "causality"
    assert report.message.startswith("mine.json breaks causality: output ")
