"""Sizes, initial weights and roles of the parameters of recurrent mixers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from minigpt.components.attention.mamba2 import StepDecay
from minigpt.errors import ExperimentError
from minigpt.experiment import ModelSection
from minigpt.model import GPT, build_model_on_meta
from minigpt.registry import REGISTRY
from tests.components.recurrent import DIMS, REFERENCES
from tests.rounding import gamma


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"name": "retention", "expand_v": 1.3}, "expand_v 1.3 times head_dim 4 is 5.2; it must be a whole number"),
        ({"name": "gla", "expand_k": 0.1}, "expand_k 0.1 times head_dim 4 is 0.4; it must be a whole number"),
        ({"name": "mamba2", "expand": 1.5}, "expand 1.5 times d_model 12 is 18; head_dim 4 must divide it"),
        ({"name": "gla", "decay_rank": 10**18}, "decay_rank: found 1000000000000000000 .*; allowed: at most 131072"),
        ({"name": "linear", "feature_map": "identity"}, 'feature_map "identity" .*: set a norm'),
    ],
)
def test_sizes_that_do_not_fit_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        REGISTRY.resolve("attention", params).build(DIMS)


def test_step_decays_start_as_published() -> None:
    decay = StepDecay(1000)
    dt, log_decay = decay(torch.zeros(1, 1, 1000))
    assert 0.00099 < dt.min() < 0.0011
    assert 0.09 < dt.max() < 0.1001
    assert dt.log().mean().item() == pytest.approx(math.log(0.01), abs=0.15)
    rates = -log_decay / dt
    assert 0.999 < rates.min() < 1.1
    assert 15.9 < rates.max() < 16.001


def model(**section: Any) -> GPT:
    torch.manual_seed(0)
    small = {"d_model": 64, "n_heads": 4, "n_layers": 3, "block_size": 16, "position": "none"}
    return GPT(ModelSection.model_validate({**small, **section}), 9)


def test_rwkv7_starts_as_in_the_authors_training_code_except_for_its_output_map() -> None:
    """One channel at a time; the model-wide initialisation does not overwrite it."""
    for index, block in enumerate(model(attention="rwkv7").blocks):
        mixer: Any = block.attention
        depth, rest = index / 2, 1 - index / 3
        for n in range(64):
            for row, power in enumerate((0.2, 0.9, 0.7, 0.7, 0.9, 0.2)):
                assert mixer.mix[row, n].item() == pytest.approx(1 - (n / 64) ** (power * rest), abs=gamma(10))
            linear, across = n / 63 - 0.5, (n % 16 - 7.5) / 7.5
            zigzag = across * abs(across)
            decay = -6 + 6 * (n / 63) ** (1 + depth**0.3) + 0.5 + 2.5 * zigzag
            assert mixer.decay.up.bias[n].item() == pytest.approx(decay, abs=gamma(10) * 15)
            assert mixer.rate.up.bias[n].item() == pytest.approx(-0.19 + 0.3 * zigzag + 0.4 * linear, abs=gamma(10))
            assert mixer.unlearn_scale[n].item() == pytest.approx(0.71 - 0.1 * linear, abs=gamma(10))
            if index:
                assert mixer.value.up.bias[n].item() == pytest.approx(0.73 - 0.4 * linear, abs=gamma(10))
        assert (mixer.value is None) == (index == 0)
        assert (mixer.rate_scale == 1.02).all()
        assert (mixer.bonus == -0.04).all()
        for pair in filter(None, (mixer.decay, mixer.rate, mixer.value, mixer.gate)):
            assert not pair.down.weight.any()
            square = pair.up.weight.T @ pair.up.weight
            # Orthogonal up to a rounding for each row in each reflection (Higham 2002, theorem 19.4).
            worst = (square - 0.01 * torch.eye(len(square))).abs().max()
            assert worst <= 0.01 * gamma(len(square) * 64)
        for layer, gain in ((mixer.r, 1.0), (mixer.k, 0.1), (mixer.v, 1.0)):
            worst = (layer.weight @ layer.weight.T - gain**2 * torch.eye(64)).abs().max()
            assert worst <= gain**2 * gamma(64 * 64)
        assert torch.equal(mixer.norm_weight, torch.full((64,), ((index + 1) / 3) ** 0.7))
        assert not mixer.norm_bias.any()
        assert mixer.out.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05), "ours; the authors' starts at zero"


@pytest.mark.parametrize("d_model", [384, 768, 2048])
def test_rwkv7_ranks_equal_the_authors_training_code(d_model: int) -> None:
    section = {"d_model": d_model, "n_heads": d_model // 64, "n_layers": 2, "attention": "rwkv7", "position": "none"}
    mixer: Any = build_model_on_meta(ModelSection.model_validate(section)).blocks[1].attention
    found = [pair.down.out_features for pair in (mixer.decay, mixer.rate, mixer.value, mixer.gate)]
    assert found == {384: [64, 64, 32, 96], 768: [64, 64, 32, 128], 2048: [128, 128, 64, 224]}[d_model]


def test_only_matrices_have_the_role_matrix() -> None:
    for name in REFERENCES:
        for parameter in model(attention=name).named_roles():
            last = parameter.name.rpartition("attention.")[2]
            if parameter.role == "matrix":
                assert last not in ("mix", "bonus", "convolution.weight"), parameter.name
                assert parameter.tensor.ndim == 2
