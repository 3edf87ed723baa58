"""Mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from minigpt.components.ffn.glu import GATES, Gate
from minigpt.components.ffn.mlp import ACTIVATIONS, Activation
from minigpt.contracts import Context, Dims, FeedForward, ResidualLinear, State
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("ffn", "moe")
class MixtureOfExperts(FeedForward):
    """A router sends each token to the k experts it scores highest (Shazeer et al. 2017, arXiv:1701.06538).

        s = softmax(W_r x);  y = scale * sum over the top k of s_i / (sum of the top k) * expert_i(x)  [+ shared(x)]

    An expert is a small glu or mlp. Experts have no capacity and no token is dropped: a limited capacity would make a
    token's output depend on other tokens, even later ones and other sequences, and decoding could not repeat this.

    The defaults route as Mixtral does (arXiv:2401.04088); a softmax over the top k logits alone is the same. DeepSeek-V3
    (arXiv:2412.19437) has scores sigmoid, balance bias, shared experts, n_group 8 and topk_group 4; gpt-oss
    (arXiv:2508.10925) has bias and variant swiglu_clamped; Switch (arXiv:2101.03961) has top_k 1 and normalise false.

    Args:
        n_experts: Experts to choose from.
        top_k: Number of experts for each token.
        n_group: Number of groups of equal size, made of consecutive experts; 1 for no groups. A token is sent only to
            experts of its best groups. A group's score is the sum of its two best scores, including the balance bias (the
            node-limited routing of DeepSeek-V3, section 2.1.2).
        topk_group: How many groups a token may use; 1 if there is one group.
        n_shared: Experts that every token uses, in addition to the chosen ones (DeepSeekMoE: arXiv:2401.06066).
        variant: The kind of expert: a variant of glu or an activation of mlp.
        expansion: Hidden width of one expert as a multiple of d_model; 4/3 with top_k 2 computes as much as one glu.
        bias: Biases in the router and the experts.
        scores: How the router's logits become scores: softmax over all experts, or a sigmoid of each.
        normalise: Whether the scores of the chosen experts are divided by their sum.
        scale: Factor on the sum of the chosen experts' outputs.
        balance: How the load of the experts is kept even. loss: adds n sum_i f_i P_i to the training loss, where f_i is the
            share of choices and P_i the mean share of scores of expert i; 1 when even (Switch; GShard: arXiv:2006.16668).
            bias: is added to the scores only for choosing; each update raises it for experts with less than the mean load
            and lowers it for the others (Wang et al. 2024, arXiv:2408.15664). none: no balancing.
        balance_rate: Weight of the loss (Switch: 0.01), or step of the bias (DeepSeek-V3: 0.001).
    """

    elementwise = frozenset({"into_bias", "out_bias"})

    choice_bias: Tensor | None
    load: Tensor | None

    def __init__(
        self,
        dims: Dims,
        *,
        n_experts: Annotated[int, Field(ge=2, le=4096)] = 8,
        top_k: Annotated[int, Field(ge=1)] = 2,
        n_group: Annotated[int, Field(ge=1)] = 1,
        topk_group: Annotated[int, Field(ge=1)] = 1,
        n_shared: Annotated[int, Field(ge=0, le=64)] = 0,
        variant: Literal[Gate, Activation] = "swiglu",
        expansion: Annotated[float, Field(gt=0, le=64)] = 4 / 3,
        bias: bool = False,
        scores: Literal["softmax", "sigmoid"] = "softmax",
        normalise: bool = True,
        scale: Annotated[float, Field(gt=0)] = 1.0,
        balance: Literal["loss", "bias", "none"] = "loss",
        balance_rate: Annotated[float, Field(gt=0)] = 0.01,
    ):
        super().__init__()
        if top_k > n_experts:
            raise ValueError(f"top_k {top_k} is more than n_experts {n_experts}")
        if top_k == n_experts and balance != "none":
            raise ValueError(f'top_k {top_k} chooses all n_experts: there is nothing to balance; set balance to "none"')
        if top_k == 1 and normalise:
            raise ValueError(
                "with top_k 1 a normalised score is always 1, and the router gets no gradient; set normalise to false"
            )
        _check_groups(n_experts, top_k, n_group, topk_group)
        self.top_k, self.scores, self.normalise, self.scale = top_k, scores, normalise, scale
        self.n_group, self.topk_group = n_group, topk_group
        self.balance, self.balance_rate = balance, balance_rate
        self.activation = _activation(variant)
        hidden = max(1, round(expansion * dims.d_model))
        into_width = 2 * hidden if variant in GATES else hidden
        self.router = nn.Linear(dims.d_model, n_experts, bias=bias)
        self.into = nn.Parameter(torch.zeros(n_experts, into_width, dims.d_model))
        self.into_bias = nn.Parameter(torch.zeros(n_experts, into_width)) if bias else None
        self.out = nn.Parameter(torch.zeros(n_experts, dims.d_model, hidden))
        self.out_bias = nn.Parameter(torch.zeros(n_experts, dims.d_model)) if bias else None
        # All shared experts together are one expert of their total width.
        self.shared_into = nn.Linear(dims.d_model, n_shared * into_width, bias=bias) if n_shared else None
        self.shared_out = ResidualLinear(n_shared * hidden, dims.d_model, bias=bias) if n_shared else None
        self.register_buffer("choice_bias", torch.zeros(n_experts) if balance == "bias" else None)
        # Tokens sent to each expert since the last update; zero in every checkpoint.
        self.register_buffer("load", torch.zeros(n_experts) if balance == "bias" else None, persistent=False)

    def init_weights(self) -> None:
        """Initialise as the model does linear maps, because the stacked weights are not of type nn.Linear."""
        nn.init.normal_(self.into, std=self.matrix_std)
        nn.init.normal_(self.out, std=self.residual_std)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        tokens = x.flatten(0, 1)
        chosen, weights = self._route(tokens, ctx)
        order = chosen.flatten().argsort(stable=True)  # all choices, sorted by expert
        sizes = chosen.flatten().bincount(minlength=len(self.into)).tolist()
        groups = torch.split(tokens[order // self.top_k], sizes)
        outputs = torch.cat([self._expert(index, group) for index, group in enumerate(groups)])
        of_token = outputs[order.argsort()].view(*chosen.shape, -1)
        y = (of_token * weights[..., None]).sum(1).view_as(x)
        y = y if self.residual_factor == 1 else self.residual_factor * y
        if self.shared_into is None or self.shared_out is None:
            return y
        return y + self.shared_out(self.activation(self.shared_into(x)))

    def _route(
        self, tokens: Float[Tensor, "tokens d_model"], ctx: Context
    ) -> tuple[Int[Tensor, "tokens top_k"], Float[Tensor, "tokens top_k"]]:
        """The experts of each token and their weights, in fp32 or wider for a model of any precision."""
        with torch.autocast(tokens.device.type, enabled=False):
            bias = None if self.router.bias is None else upcast(self.router.bias)
            logits = F.linear(upcast(tokens), upcast(self.router.weight), bias)
        scores = logits.softmax(-1) if self.scores == "softmax" else logits.sigmoid()
        chosen = self._chosen(logits, scores)
        if self.training and self.balance != "none":
            self._balance(scores, chosen, ctx)
        weights = scores.gather(-1, chosen)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return chosen, weights * self.scale

    def _chosen(
        self, logits: Float[Tensor, "tokens experts"], scores: Float[Tensor, "tokens experts"]
    ) -> Int[Tensor, "tokens top_k"]:
        """The best experts of each token, from its best groups if there are several."""
        biased = scores if self.choice_bias is None else scores + self.choice_bias
        # Logits order experts as scores do and do not saturate. With a bias the scores themselves are needed.
        order = logits if self.choice_bias is None else biased
        if self.n_group > 1:
            groups = biased.view(len(biased), self.n_group, -1)
            best = groups.topk(2, dim=-1).values.sum(-1).topk(self.topk_group, dim=-1).indices
            kept = torch.zeros_like(groups[..., 0], dtype=torch.bool).scatter(-1, best, True)
            order = order.masked_fill(~kept.repeat_interleave(groups.shape[-1], -1), -torch.inf)
        return order.topk(self.top_k, dim=-1).indices

    def _balance(self, scores: Float[Tensor, "tokens experts"], chosen: Int[Tensor, "tokens top_k"], ctx: Context) -> None:
        """Count the load of each expert, or append the balance loss."""
        load = chosen.flatten().bincount(minlength=scores.shape[-1]).to(scores.dtype)
        if self.load is not None:
            self.load += load
        else:
            shares = (scores / (scores.sum(-1, keepdim=True) + 1e-20)).mean(0)  # sigmoids do not sum to 1
            ctx.losses.append(self.balance_rate * len(load) * (load / load.sum() * shares).sum())

    def _expert(self, index: int, x: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens d_model"]:
        hidden = F.linear(x, self.into[index], None if self.into_bias is None else self.into_bias[index])
        return F.linear(self.activation(hidden), self.out[index], None if self.out_bias is None else self.out_bias[index])

    def n_idle(self) -> int:
        stacks = (self.into, self.into_bias, self.out, self.out_bias)
        an_expert = sum(stack[0].numel() for stack in stacks if stack is not None)
        return (len(self.into) - self.top_k) * an_expert

    def after_step(self) -> None:
        """Move the bias against the counted load, and reset the count."""
        if self.choice_bias is not None and self.load is not None:
            self.choice_bias += self.balance_rate * (self.load.mean() - self.load).sign()
            self.load.zero_()


def _check_groups(n_experts: int, top_k: int, n_group: int, topk_group: int) -> None:
    """Raise a ValueError if the groups do not fit the experts, or limit nothing."""
    size, rest = divmod(n_experts, n_group)
    if rest:
        raise ValueError(f"n_group {n_group} does not divide n_experts {n_experts}")
    if n_group > 1 and size < 2:
        raise ValueError(f"n_group {n_group} makes groups of one expert, and a group's score is the sum of its two best")
    if topk_group > n_group:
        raise ValueError(f"topk_group {topk_group} is more than n_group {n_group}")
    if topk_group == n_group > 1:
        raise ValueError(f"topk_group {topk_group} keeps every group, which limits nothing; set n_group and topk_group to 1")
    if n_group > 1 and top_k > topk_group * size:
        raise ValueError(f"top_k {top_k} is more than the {topk_group * size} experts of topk_group {topk_group} groups")


def _activation(variant: str) -> Callable[[Tensor], Tensor]:
    """The activation between an expert's two maps."""
    if variant not in GATES:
        return ACTIVATIONS[variant]
    gate = GATES[variant]
    return lambda hidden: gate(*hidden.chunk(2, dim=-1))
