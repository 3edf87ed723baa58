from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minigpt.contracts import Context, Dims, Layer, Position
from minigpt.errors import ExperimentError
from minigpt.experiment import ModelSection
from minigpt.model import GPT
from tests.plugins.conftest import Build, Use
from tests.rounding import assert_formula, normal
from tests.strategies import BLOCK_SIZE, model_with_large_weights, tokens

DIMS = Dims(8, 1, 2, 4, 40, 11, 0.0)


def layer(attention: str = "mha") -> Layer:
    return ModelSection.model_validate({"attention": attention, "position": "none"}).layer(0)


def context(x: Tensor, segments: Tensor | None = None) -> Context:
    ids = torch.zeros(x.shape[:2], dtype=torch.long)
    return Context(torch.arange(x.shape[1]), Position(), ids, segments=segments)


def papers(block: torch.nn.Module, x: Tensor, threshold: float) -> Tensor:
    """Equation 1 of Raposo et al. 2024, row by row: the inner block gets only the tokens that pass."""
    y = x.clone()
    for row, sequence in enumerate(x):
        score = (sequence / sequence.square().mean(-1, keepdim=True).add(1e-6).sqrt()) @ block.router.weight[0]
        places = [t for t in range(len(sequence)) if score[t] > threshold]
        assert 0 < len(places) < len(sequence)
        shorter = sequence[places][None]
        inner = block.inner(shorter, context(shorter))[0]
        for place, value in zip(places, inner, strict=True):
            y[row, place] += (value - sequence[place]) / (1 + torch.exp(-score[place]))
    return y


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_only_the_tokens_that_pass_reach_the_inner_block(build: Build, threshold: float) -> None:
    block = build(DIMS, layer()).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    block.threshold.fill_(threshold)
    x = normal(3, 20, 8, seed=1)
    with torch.no_grad():
        assert_formula(block(x, context(x)), papers(block, x, threshold))
        halves = (torch.arange(20) >= 9).long().expand(3, -1)  # segments of the batch stay apart too
        apart = torch.cat([papers(block, part, threshold) for part in (x[:, :9], x[:, 9:])], 1)
        assert_formula(block(x, context(x, halves)), apart)


@pytest.mark.parametrize("capacity", [0.125, 0.8])
def test_the_threshold_moves_until_this_share_of_tokens_passes(build: Build, capacity: float) -> None:
    block = build(DIMS, layer(), capacity=capacity, rate=0.02)
    torch.nn.init.normal_(block.router.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    shares = []
    for update in range(200):
        x = normal(4, 40, 8, seed=update).float()
        with torch.no_grad():
            block(x, context(x))
            shares.append(float(block.passed[0] / block.passed[1]))
            block.after_step()
    assert abs(sum(shares[100:]) / 100 - capacity) < 0.02
    assert abs(shares[0] - capacity) > 0.1


def test_a_mixer_that_cannot_hide_tokens_is_refused(build: Build) -> None:
    with pytest.raises(ExperimentError, match="RetentionAttention cannot hide tokens|Retention cannot hide tokens"):
        build(DIMS, layer("retention"))


@pytest.mark.parametrize("block", ["pre_norm", "post_norm", "hyper_connections", "ngpt"])
def test_a_model_with_it_decodes_token_by_token(block: str) -> None:
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": 3, "block_size": BLOCK_SIZE, "dropout": 0.0, "position": "rope"}
    section = ModelSection.model_validate({**sizes, "block": {"name": "mixture_of_depths", "block": block}})
    model = model_with_large_weights(section).double()
    assert isinstance(model, GPT)
    ids = tokens(2, BLOCK_SIZE, 3)
    state = model.new_state(2, BLOCK_SIZE, torch.float64)
    with torch.no_grad():
        assert_formula(torch.cat([model(ids[:, [t]], state) for t in range(BLOCK_SIZE)], 1), model(ids))


@pytest.mark.slow
def test_a_user_checks_trains_and_generates(use: Use) -> None:
    use()
