"""Mixers that normalise their heads' outputs use the eps and the scales of the published code, because their size matters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.registry import REGISTRY


@pytest.mark.parametrize(
    ("name", "eps"), [("delta_net", 1e-5), ("gated_delta_net", 1e-5), ("gla", 1e-5), ("mamba2", 1e-5), ("retention", 1e-6)]
)
def test_the_eps_of_an_output_norm_equals_the_authors_code(name: str, eps: float) -> None:
    assert REGISTRY.resolve("attention", name).params["norm"].params == {"eps": eps, "gain": True}


@pytest.mark.parametrize(("name", "rms"), [("delta_net", 0.77), ("gated_delta_net", 0.43), ("gla", 1.0), ("retention", 1.0)])
def test_the_initial_output_of_the_norm_matches_the_published_convention(name: str, rms: float) -> None:
    """Outputs of heads of 64 with unit keys are so small that the eps matters: unscaled queries and eps 1e-6 would give 0.99.

    A mean over 24 layers, because the decays of gated_delta_net are random: over seeds it has a deviation of 0.04.
    """
    section = {"d_model": 128, "n_heads": 2, "n_layers": 24, "dropout": 0.0, "position": "none", "attention": name}
    torch.manual_seed(0)
    model, lengths = GPT(ModelSection.model_validate(section), 9), []
    for block in model.blocks:
        mixer: Any = block.attention
        mixer.norm.register_forward_hook(lambda _, inputs, output: lengths.append(output.square().mean().sqrt().item()))
    with torch.no_grad():
        model(torch.randint(9, (4, 256), generator=torch.Generator().manual_seed(0)))
    assert len(lengths) == 24
    assert sum(lengths) / 24 == pytest.approx(rms, abs=0.1)
