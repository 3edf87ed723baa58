"""Mixture of experts against its papers' formulas, token by token in float64; and variants of gates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from minigpt.contracts import INIT_STD
from minigpt.errors import ExperimentError
from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.registry import REGISTRY
from tests.components.formulas import ACTIVATIONS, DIMS, build, context, linear
from tests.rounding import assert_formula, normal
from tests.strategies import VOCAB, tokens


def clamped(gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    gate, value = gate.minimum(torch.tensor(7.0)), value.maximum(torch.tensor(-7.0)).minimum(torch.tensor(7.0))
    return (value + 1) * gate / (1 + torch.exp(-1.702 * gate))


GATED = {
    "swiglu": lambda gate, value: ACTIVATIONS["silu"](gate) * value,
    "geglu": lambda gate, value: ACTIVATIONS["gelu"](gate) * value,
    "reglu": lambda gate, value: ACTIVATIONS["relu"](gate) * value,
    "swiglu_clamped": clamped,
}


def activated(variant: str, hidden: torch.Tensor) -> torch.Tensor:
    half = hidden.shape[-1] // 2
    return GATED[variant](hidden[..., :half], hidden[..., half:]) if variant in GATED else ACTIVATIONS[variant](hidden)


def reference(moe: Any, x: torch.Tensor, p: dict[str, Any]) -> torch.Tensor:
    """One token at a time: score, choose, and add up the outputs of the chosen experts."""
    rows = []
    for token in x.flatten(0, 1):
        logits = linear(token, moe.router)
        scores = torch.sigmoid(logits) if p.get("scores") == "sigmoid" else logits.exp() / logits.exp().sum()
        bias = torch.zeros_like(scores) if moe.choice_bias is None else moe.choice_bias
        n_group = p.get("n_group", 1)
        groups = [range(g * len(scores) // n_group, (g + 1) * len(scores) // n_group) for g in range(n_group)]
        groups.sort(key=lambda group: -sum(sorted((scores[i] + bias[i]).item() for i in group)[-2:]))
        candidates = [i for group in groups[: p.get("topk_group", 1)] for i in group]
        chosen = sorted(candidates, key=lambda i: -(scores[i] + bias[i]).item())[: p.get("top_k", 2)]
        total = sum(scores[i] for i in chosen) if p.get("normalise", True) else 1
        y = torch.zeros_like(token)
        for i in chosen:
            hidden = moe.into[i] @ token + (0 if moe.into_bias is None else moe.into_bias[i])
            output = moe.out[i] @ activated(p.get("variant", "swiglu"), hidden)
            output = output + (0 if moe.out_bias is None else moe.out_bias[i])
            y = y + p.get("scale", 1.0) * scores[i] / total * output
        if p.get("n_shared"):
            y = y + linear(activated(p.get("variant", "swiglu"), linear(token, moe.shared_into)), moe.shared_out)
        rows.append(y)
    return torch.stack(rows).view_as(x)


MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"balance": "none"},
    "switch": {"n_experts": 4, "top_k": 1, "normalise": False, "variant": "relu", "expansion": 4.0},
    "deepseek_v3": {"n_experts": 6, "top_k": 3, "n_shared": 2, "scores": "sigmoid", "scale": 2.5, "balance": "bias"},
    "deepseek_v3 in groups": {
        "n_experts": 16,
        "top_k": 4,
        "n_group": 8,
        "topk_group": 4,
        "scores": "sigmoid",
        "scale": 2.5,
        "balance": "bias",
    },
    "softmax in groups without a bias": {"n_experts": 9, "top_k": 4, "n_group": 3, "topk_group": 2, "balance": "none"},
    "gpt_oss": {"n_experts": 5, "bias": True, "variant": "swiglu_clamped"},
    "every token to every expert": {
        "n_experts": 3,
        "top_k": 3,
        "variant": "geglu",
        "n_shared": 1,
        "bias": True,
        "balance": "none",
    },
    "softmax with a bias for choosing": {"n_experts": 4, "balance": "bias", "variant": "relu2"},
}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_its_formula_token_by_token(name: str) -> None:
    params = MIXTURES[name]
    moe = build("ffn", "moe", DIMS, **params)
    if moe.choice_bias is not None:
        moe.choice_bias.normal_(std=0.5)
    x = normal(2, 7, 12).requires_grad_()
    moe.eval()
    got, expected = moe(x, context()), reference(moe, x, params)
    assert_formula(got, expected)
    inputs = {"x": x, **dict(moe.named_parameters())}
    of_got = torch.autograd.grad(got.square().sum(), inputs.values())
    of_expected = torch.autograd.grad(expected.square().sum(), inputs.values())
    for name, one, other in zip(inputs, of_got, of_expected, strict=True):
        assert_formula(one, other, f"gradient of {name}")


def test_a_bias_changes_the_chosen_experts_and_not_their_weights() -> None:
    moe = build("ffn", "moe", DIMS, n_experts=4, balance="bias").eval()
    x = normal(50, 12)
    before, weights = moe._route(x, context())
    moe.choice_bias[:] = torch.tensor([5.0, 0.0, 0.0, 5.0])
    after, biased = moe._route(x, context())
    assert not torch.equal(before.sort(-1).values, after.sort(-1).values)
    assert torch.equal(after.sort(-1).values, torch.tensor([[0, 3]]).expand(50, 2))
    scores = linear(x, moe.router).softmax(-1).gather(-1, after)
    assert_formula(biased, scores / scores.sum(-1, keepdim=True))
    assert_formula(weights.sum(-1), torch.ones(50, dtype=torch.float64))


def test_an_expert_outside_the_best_groups_is_not_chosen_even_with_the_best_score() -> None:
    moe = build("ffn", "moe", DIMS, n_experts=6, top_k=2, n_group=3, topk_group=1, scores="sigmoid", bias=True).eval()
    with torch.no_grad():
        moe.router.weight.zero_()
        moe.router.bias[:] = torch.tensor([2.0, -9, 1, 1, 0, 0])  # the best expert has a weak group
    tokens = torch.ones(5, 12, dtype=moe.router.weight.dtype)
    assert (moe._route(tokens, context())[0].sort(-1).values == torch.tensor([2, 3])).all()


def test_no_token_is_dropped_even_if_all_choose_one_expert() -> None:
    params = {"n_experts": 8, "top_k": 1, "normalise": False, "bias": True}
    moe = build("ffn", "moe", DIMS, **params).eval()
    with torch.no_grad():
        moe.router.weight.zero_()
        moe.router.bias[:] = torch.tensor([0.0, 0, 0, 9, 0, 0, 0, 0])  # all tokens to one expert
    x = normal(2, 7, 12)
    got = moe(x, context())
    assert (got.abs().sum(-1) > 1e-3).all()
    assert_formula(got, reference(moe, x, params))


def test_the_router_distinguishes_in_fp32_scores_that_are_equal_in_bf16() -> None:
    moe = build("ffn", "moe", DIMS, n_experts=2, top_k=1, normalise=False).float()
    with torch.no_grad():
        moe.router.weight[0], moe.router.weight[1] = 1.0, 1.0 + 2**-12
    with torch.autocast("cpu", torch.bfloat16):
        chosen, weights = moe._route(torch.ones(5, 12), context())
    assert (chosen == 1).all()
    assert weights.dtype == torch.float32
    assert (weights > 0.5).all()


def test_nearly_certain_routers_still_choose_by_their_logits() -> None:
    moe = build("ffn", "moe", DIMS, n_experts=3, scores="sigmoid", bias=True).float().eval()
    with torch.no_grad():
        moe.router.weight.zero_()
        moe.router.bias[:] = torch.tensor([30.0, 40.0, 50.0])  # each a sigmoid of 1 in fp32
    assert (moe._route(torch.ones(5, 12), context())[0] == torch.tensor([2, 1])).all()


def test_every_expert_learns_from_a_batch() -> None:
    torch.manual_seed(0)
    section = {"d_model": 16, "n_heads": 4, "n_layers": 2, "block_size": 24, "dropout": 0.0, "ffn": "moe"}
    model = GPT(ModelSection.model_validate(section), VOCAB)
    loss, auxiliary = model.loss(tokens(4, 24, 0), tokens(4, 24, 1))
    (loss + auxiliary).backward()
    for block in model.blocks:
        assert (block.ffn.into.grad.flatten(1).abs().amax(1) > 0).all()
        assert (block.ffn.out.grad.flatten(1).abs().amax(1) > 0).all()
        assert (block.ffn.router.weight.grad.abs().amax(1) > 0).all()


# -------------------------------------------------------------------------------------------------------------- balance


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_the_balancing_loss_is_the_papers_and_only_in_training(scores: str) -> None:
    moe = build("ffn", "moe", DIMS, n_experts=5, scores=scores, balance_rate=0.3)
    x, ctx = normal(2, 7, 12), context()
    moe.train()(x, ctx)
    logits = linear(x.flatten(0, 1), moe.router)
    each = torch.sigmoid(logits) if scores == "sigmoid" else logits.softmax(-1)
    expected = 0.0
    for i in range(5):
        f = sum(i in row.topk(2).indices.tolist() for row in logits) / (14 * 2)
        p = (each[:, i] / each.sum(-1)).mean()
        expected = expected + 0.3 * 5 * f * p
    (loss,) = ctx.losses
    assert_formula(loss, expected)
    (got,) = torch.autograd.grad(loss, moe.router.weight)
    (wanted,) = torch.autograd.grad(expected, moe.router.weight)
    assert_formula(got, wanted)
    quiet = context()
    moe.eval()(x, quiet)
    assert quiet.losses == []


def test_an_even_load_costs_the_rate_and_an_uneven_load_more() -> None:
    moe = build("ffn", "moe", DIMS, n_experts=4, top_k=1, normalise=False, bias=True, balance_rate=0.01)
    even, lopsided = context(), context()
    moe._balance(torch.full((8, 4), 0.25), torch.arange(8)[:, None] % 4, even)
    moe._balance(torch.tensor([[0.97, 0.01, 0.01, 0.01]]).expand(8, 4), torch.zeros(8, 1, dtype=torch.long), lopsided)
    assert even.losses[0].item() == pytest.approx(0.01)
    assert lopsided.losses[0].item() == pytest.approx(0.01 * 4 * 0.97)


def test_the_models_loss_has_a_part_for_each_layer() -> None:
    section = {"d_model": 16, "n_heads": 4, "n_layers": 3, "block_size": 24, "dropout": 0.0}
    torch.manual_seed(0)
    for balance, expected in (("loss", 3 * 0.01), ("bias", 0), ("none", 0)):
        model = GPT(ModelSection.model_validate({**section, "ffn": {"name": "moe", "balance": balance}}), VOCAB)
        auxiliary = model.loss(tokens(4, 24, 0), tokens(4, 24, 1))[1]
        assert auxiliary.item() == pytest.approx(expected, rel=0.2)  # the initial load is nearly even


def test_the_bias_moves_by_the_rate_against_the_load_of_all_training_passes_since_the_last_update() -> None:
    moe = build("ffn", "moe", DIMS, n_experts=3, top_k=1, normalise=False, bias=True, balance="bias", balance_rate=0.25)
    with torch.no_grad():
        moe.router.weight.zero_()
    x, ctx = normal(1, 6, 12), context(batch=1, time=6)

    def send_all_to(expert: int) -> None:
        with torch.no_grad():
            moe.router.bias[:] = torch.tensor([9.0 * (i == expert) for i in range(3)])
        moe(x, ctx)

    moe.after_step()
    assert not moe.choice_bias.any(), "no pass has been counted"
    moe.eval()
    send_all_to(2)
    moe.after_step()
    assert not moe.choice_bias.any(), "evaluation does not count"
    moe.train()
    send_all_to(0)
    send_all_to(1)
    send_all_to(1)
    assert moe.load.tolist() == [6, 12, 0]
    moe.after_step()
    assert moe.choice_bias.tolist() == [0, -0.25, 0.25]  # the mean is 6
    assert not moe.load.any(), "an update counts once"
    assert set(moe.state_dict()) >= {"choice_bias"}
    assert "load" not in moe.state_dict(), "it is zero in every checkpoint"


def test_a_bias_evens_out_an_uneven_load() -> None:
    moe = build("ffn", "moe", DIMS, n_experts=6, bias=True, scores="sigmoid", balance="bias", balance_rate=0.02)
    with torch.no_grad():
        moe.router.bias[:] = torch.linspace(-2, 2, 6)
    x = normal(8, 16, 12)
    excess = []
    for _ in range(150):
        moe(x, context(batch=8, time=16))
        excess.append((moe.load.max() / moe.load.mean()).item())
        moe.after_step()
    assert excess[0] > 1.8
    assert excess[-1] < 1.2


def test_resumed_training_moves_the_bias_like_uninterrupted_training() -> None:
    section = ModelSection.model_validate(
        {
            "d_model": 16,
            "n_heads": 4,
            "n_layers": 2,
            "block_size": 12,
            "dropout": 0.0,
            "ffn": {"name": "moe", "balance": "bias"},
        }
    )

    def update(model: GPT, step: int) -> None:
        model.zero_grad()
        model.loss(tokens(4, 12, step), tokens(4, 12, step + 1))[0].backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        model.after_step()

    torch.manual_seed(0)
    one, other = GPT(section, VOCAB), GPT(section, VOCAB)
    for step in range(3):
        update(one, step)
    other.load_state_dict(one.state_dict())
    for step in range(3, 6):
        update(one, step)
        update(other, step)
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert one.blocks[1].ffn.choice_bias.any()


# --------------------------------------------------------------------------------------------------- sizes and refusals


def test_experts_are_initialised_like_linear_maps() -> None:
    torch.manual_seed(0)
    section = {"d_model": 96, "n_heads": 4, "n_layers": 3, "ffn": {"name": "moe", "bias": True}}
    ffn = GPT(ModelSection.model_validate(section), VOCAB).blocks[1].ffn
    for stack, expected in ((ffn.into, INIT_STD), (ffn.out, INIT_STD / 6**0.5), (ffn.router.weight, INIT_STD)):
        assert stack.std().item() == pytest.approx(expected, rel=0.1)
    assert not any(bias.any() for bias in (ffn.into_bias, ffn.out_bias, ffn.router.bias))
    roles = {p.name.rpartition("ffn.")[2]: p.role for p in GPT(ModelSection.model_validate(section), VOCAB).named_roles()}
    assert (roles["into"], roles["out"], roles["into_bias"], roles["out_bias"]) == ("matrix", "matrix", "vector", "vector")


def test_the_defaults_compute_as_much_per_token_as_glu() -> None:
    moe, glu = (REGISTRY.resolve("ffn", name).build(DIMS) for name in ("moe", "glu"))
    active = moe.top_k * (moe.into[0].numel() + moe.out[0].numel())
    assert active == sum(parameter.numel() for parameter in glu.parameters())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_experts": 3, "top_k": 3}, "top_k 3 chooses all n_experts: there is nothing to balance"),
        ({"n_experts": 4, "top_k": 5}, "top_k 5 is more than n_experts 4"),
        ({"n_experts": 8, "n_group": 3}, "n_group 3 does not divide n_experts 8"),
        (
            {"n_experts": 8, "n_group": 8},
            "n_group 8 makes groups of one expert, and a group's score is the sum of its two best",
        ),
        ({"n_experts": 8, "n_group": 2, "topk_group": 3}, "topk_group 3 is more than n_group 2"),
        ({"topk_group": 2}, "topk_group 2 is more than n_group 1"),
        ({"n_experts": 8, "n_group": 2, "topk_group": 2}, "topk_group 2 keeps every group, which limits nothing"),
        ({"n_experts": 8, "n_group": 4, "top_k": 3}, "top_k 3 is more than the 2 experts of topk_group 1 groups"),
        (
            {"top_k": 1},
            "with top_k 1 a normalised score is always 1, and the router gets no gradient; set normalise to false",
        ),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        REGISTRY.resolve("ffn", {"name": "moe", **params}).build(DIMS)


# ---------------------------------------------------------------------------------------------------------- gates of glu


def test_the_clamped_swiglu_is_gpt_osss() -> None:
    glu = build("ffn", "glu", DIMS, variant="swiglu_clamped", bias=True)
    x = 8 * normal(2, 7, 12)
    gate, value = linear(x, glu.into).chunk(2, -1)
    assert (gate > 7).any()
    assert (gate < -7).any()
    assert (value.abs() > 7).any()
    assert_formula(glu(x, context()), linear(clamped(gate, value), glu.out))


def test_the_gain_of_glu_scales_both_halves_and_starts_at_1() -> None:
    glu = build("ffn", "glu", DIMS, gain=True)
    x = normal(2, 7, 12)
    s_v, s_u = glu.gain.chunk(2)
    gate, value = linear(x, glu.into).chunk(2, -1)
    expected = linear(F.silu(gate * s_v) * value * s_u, glu.out)
    assert_formula(glu(x, context()), expected)
    assert (REGISTRY.resolve("ffn", {"name": "glu", "gain": True}).build(DIMS).gain == 1).all()
