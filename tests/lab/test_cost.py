"""Costs compared with counts by hand: d_model 16, 4 heads of 4, 2 layers, context 12, vocabulary 23."""

from __future__ import annotations

import pytest
import torch

from minigpt.experiment import ModelSection
from minigpt.lab.cost import Cost, measure_cost
from minigpt.model import GPT

D, LAYERS, CONTEXT, VOCAB, HIDDEN, FLOAT = 16, 2, 12, 23, 64, 4
SQUARE = D * D
EXPERT = 3 * D * round(4 / 3 * D)


def cost(**changes: object) -> Cost:
    return measure_cost(model(**changes))


def model(**changes: object) -> GPT:
    small = {"d_model": D, "n_heads": 4, "n_layers": LAYERS, "block_size": CONTEXT, "dropout": 0.0}
    return GPT(ModelSection.model_validate({**small, **changes}), VOCAB)


def mha(maps: int = 4 * SQUARE, keys: float = (CONTEXT + 1) / 2) -> float:
    """Operations per token in training: 3 x 2 for each weight, and six products of length D with each visible key."""
    return 6 * maps + 6 * 2 * D * keys


FFN, HEAD = 6 * 2 * D * HIDDEN, 6 * D * VOCAB


@pytest.mark.parametrize(
    ("changes", "attention", "ffn", "flops"),
    [
        pytest.param({}, 4 * (SQUARE + D), 2 * D * HIDDEN + HIDDEN + D, LAYERS * (mha() + FFN) + HEAD, id="dense"),
        pytest.param(
            {"attention": "gqa"},
            2 * (SQUARE + D) + 2 * (SQUARE // 2 + D // 2),
            2 * D * HIDDEN + HIDDEN + D,
            LAYERS * (mha(3 * SQUARE) + FFN) + HEAD,
            id="grouped",
        ),
        pytest.param(
            {"attention": {"name": "mha", "window": 4}},
            4 * (SQUARE + D),
            2 * D * HIDDEN + HIDDEN + D,
            LAYERS * (mha(keys=(1 + 2 + 3 + 9 * 4) / CONTEXT) + FFN) + HEAD,
            id="windowed",
        ),
        pytest.param(
            {"ffn": "moe"},
            4 * (SQUARE + D),
            8 * EXPERT + 8 * D,
            LAYERS * (mha() + 6 * (2 * EXPERT + 8 * D)) + HEAD,
            id="experts",
        ),
    ],
)
def test_parameters_and_operations_equal_counts_by_hand(
    changes: dict[str, object], attention: int, ffn: int, flops: float
) -> None:
    counted = cost(**changes)
    assert counted.parameters == {
        "embedding": VOCAB * D,
        "position": CONTEXT * D,
        "attention": LAYERS * attention,
        "ffn": LAYERS * ffn,
        "norm": (2 * LAYERS + 1) * 2 * D,
    }
    assert counted.train_flops == flops


def test_in_a_mixture_only_chosen_experts_are_active() -> None:
    counted = cost(ffn="moe")
    assert counted.total - counted.active == LAYERS * 6 * EXPERT
    with_biases = cost(ffn={"name": "moe", "bias": True, "n_experts": 5, "top_k": 3, "variant": "gelu", "expansion": 1})
    assert with_biases.total - with_biases.active == LAYERS * 2 * (2 * D * D + 2 * D)
    assert cost().active == cost().total


def test_masked_scores_are_the_difference_of_the_two_counts() -> None:
    counted = cost()
    unseen = CONTEXT - (CONTEXT + 1) / 2
    assert counted.train_flops_square - counted.train_flops == LAYERS * 6 * 2 * D * unseen


@pytest.mark.parametrize(
    ("changes", "a_token", "context"),
    [
        pytest.param({}, 2 * D, 2 * D * CONTEXT, id="dense"),
        pytest.param({"attention": {"name": "gqa", "n_kv_heads": 1}}, 2 * D // 4, 2 * D // 4 * CONTEXT, id="one-head"),
        pytest.param(
            {"attention": {"name": "mla", "kv_rank": 10, "rope_dim": 2}, "position": "rope"}, 12, 12 * CONTEXT, id="latent"
        ),
        pytest.param(
            {"attention": {"name": "retention", "expand_v": 2.0}, "position": "rope"}, 0, 4 * 4 * 8, id="recurrent"
        ),
        pytest.param({"attention": {"name": "short_conv", "width": 3}, "position": "none"}, 0, 2 * D, id="convolution"),
    ],
)
def test_the_size_of_the_decoding_state(changes: dict[str, object], a_token: int, context: int) -> None:
    counted = cost(**changes)
    assert (counted.state_bytes_token, counted.state_bytes) == (LAYERS * FLOAT * a_token, LAYERS * FLOAT * context)


def test_bytes_kept_for_the_backward_pass() -> None:
    """A feed-forward keeps the inputs of its two maps, D and HIDDEN, and the input of its activation."""
    difference = cost().activation_bytes - cost(ffn="identity").activation_bytes
    assert difference == LAYERS * FLOAT * (D + HIDDEN + HIDDEN)


def test_a_weight_counts_for_the_outermost_part_that_contains_it() -> None:
    norm = {"name": "rmsnorm"}
    counted = cost(
        attention={"name": "mha", "qk_norm": norm}, embedding={"name": "table", "norm": norm, "tied": False}, norm=norm
    )
    assert counted.parameters["attention"] == LAYERS * (4 * (SQUARE + D) + 2 * 4)
    assert counted.parameters["norm"] == (2 * LAYERS + 1) * D
    assert counted.parameters["head"] == D * VOCAB
    assert counted.total == model(attention={"name": "mha", "qk_norm": norm}, norm=norm).n_parameters() + D + D * VOCAB


def test_both_ends_and_the_objective_are_kinds() -> None:
    layer = 4 * (SQUARE + D) + 2 * D * HIDDEN + HIDDEN + D + 2 * 2 * D
    counted = cost(embedding={"name": "factorised", "rank": 5, "tied": False}, objective="multi_token")
    assert counted.parameters["embedding"] == 5 * (VOCAB + D)
    assert counted.parameters["head"] == D * VOCAB
    assert counted.parameters["objective"] == layer + 2 * D
    assert counted.parameters["attention"] == cost().parameters["attention"]
    mixed = cost(embedding={"name": "mixture_of_softmaxes", "n_softmaxes": 3})
    assert mixed.parameters["embedding"] == VOCAB * D + 3 * (SQUARE + D) + 3 * (D + 1)
    assert "head" not in mixed.parameters


def test_counting_does_not_change_the_model_or_the_random_state() -> None:
    lm = model(ffn="moe").eval()
    weights = {name: value.clone() for name, value in lm.state_dict().items()}
    before = torch.get_rng_state()
    measure_cost(lm)
    assert torch.equal(torch.get_rng_state(), before)
    assert not lm.training
    assert all(parameter.grad is None for parameter in lm.parameters())
    for name, value in lm.state_dict().items():
        assert torch.equal(value, weights[name])
