"""Every parameter changes the computation: a parameter without an effect is a bug."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minigpt.check import check_component
from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.registry import REGISTRY
from tests.strategies import BLOCK_SIZE, VOCAB, tokens

WITH_PARAMETERS = [
    (family.name, entry.name)
    for family in REGISTRY.families()
    for entry in REGISTRY.entries(family.name)
    if entry.params.model_fields and family.name != "dataset"  # a corpus takes seconds to load
]


@pytest.mark.parametrize(("family", "name"), WITH_PARAMETERS)
def test_every_knob_changes_the_computation(family: str, name: str) -> None:
    (result,) = check_component(family, name, only=["knobs"]).results
    assert result.verdict == "pass", result.failure
    assert result.tried == len(REGISTRY.entry(family, name).params.model_fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embedding", {"name": "table", "tied": False}),
        ("embedding", {"name": "table", "unit": True}),
        ("embedding", {"name": "table", "norm": "rmsnorm"}),
        ("embedding", {"name": "table", "scale": "sqrt"}),
        ("embedding", {"name": "table", "softcap": 1.0}),
        ("dropout", 0.5),
        ("objective", {"name": "next_token", "z_loss": 0.1}),
    ],
)
def test_every_knob_of_the_model_changes_the_training_loss(field: str, value: Any) -> None:
    base = {"d_model": 16, "n_heads": 4, "n_layers": 2, "block_size": BLOCK_SIZE, "dropout": 0.0}
    losses = []
    for changes in ({}, {field: value}):
        torch.manual_seed(0)
        model = GPT(ModelSection.model_validate({**base, **changes}), VOCAB).train()
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(sum(model.loss(tokens(2, BLOCK_SIZE, 1), tokens(2, BLOCK_SIZE, 2))))
    assert losses[0] != losses[1]
