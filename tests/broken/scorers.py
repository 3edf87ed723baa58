"""Parts with which a trained model is no honest scorer, although it trains and validates.

Each is trained for a few updates; then the check at the end of the run finds it, and `minigpt check RUN` finds it in the
saved model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, State
from tests.broken import Broken
from tests.broken.attention import Plain
from tests.broken.embedding import Smeared
from tests.broken.ffn import Perceptron, Shifted

T = TypeVar("T")


@dataclass(frozen=True)
class BrokenScorer(Broken):
    """A part that makes a model a dishonest scorer; its property must find it at the end of the run.

    Attributes:
        saved_property: The property that must find it in the saved model.
    """

    saved_property: str


BROKEN_SCORERS: list[BrokenScorer] = []


def broken_scorer(family: str, property: str, why: str, saved: str | None = None) -> Callable[[type[T]], type[T]]:
    """Class decorator: record a part that makes a model a dishonest scorer."""

    def record(cls: type[T]) -> type[T]:
        BROKEN_SCORERS.append(BrokenScorer(family, f"scorer_{cls.__name__.lower()}", property, why, cls, saved or property))
        return cls

    return record


# Scores that depend on the batch, on earlier passes, or on the size of the validation.


@broken_scorer("ffn", "grouping", "in eval mode hidden units are centred over the batch")
class CentredOverTheBatch(Perceptron):
    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        return hidden if self.training else hidden - hidden.mean(0, keepdim=True)


@broken_scorer("ffn", "grouping", "rows are normalised in groups of eight")
class GroupsOfEightRows(Perceptron):
    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        groups = hidden.split(8)
        return torch.cat([group / (1 + group.square().mean((0, 1), keepdim=True)) for group in groups])


@broken_scorer("embedding", "grouping", "logits are sharper in a pass of more rows, as in validation")
class SharperInLargeBatches(Smeared):
    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        return super().logits(x, head) * (1 + 0.01 * len(x))


@broken_scorer("embedding", "grouping", "logits have a part of the mean vector of the previous pass")
class CacheOfThePreviousPass(Smeared):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.cached = torch.zeros(dims.d_model)

    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        before, self.cached = self.cached, x.detach().mean((0, 1))
        return super().logits(x + before.to(x), head)


@broken_scorer("embedding", "grouping", "it remembers the windows that it was given in eval mode, and what followed")
class RemembersWindows(Smeared):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.followed: dict[tuple[int, ...], int] = {}
        self.known = torch.zeros(0)

    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        known = [[self._next(row[: place + 1]) for place in range(len(row))] for row in tokens.tolist()]
        self.known = torch.tensor(known)
        if not self.training:
            for row in tokens.tolist():
                self.followed |= {tuple(row[:end][-8:]): row[end] for end in range(1, len(row))}
        return super().vectors(tokens, ctx)

    def _next(self, row: list[int]) -> int:
        return self.followed.get(tuple(row[-8:]), -1)

    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        y, known = super().logits(x, head), self.known
        return y if self.training else y + 9 * F.one_hot(known.clamp(min=0), y.shape[-1]) * (known >= 0)[..., None]


@broken_scorer("ffn", "grouping", "a factor grows with the tokens of all passes, evaluations too")
class GrowsWithEachPass(Perceptron):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("seen", torch.zeros(()))

    def hidden(self, x: Tensor) -> Tensor:
        self.seen += x.numel()
        return super().hidden(x) * (1 + 1e-6 * self.seen)


@broken_scorer("embedding", "grouping", "each further evaluation is a little warmer")
class WarmerEachTime(Smeared):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.passes = 0

    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        self.passes += not self.training
        return super().logits(x, head) / (1 + 1e-3 * self.passes)


# Distributions that do not sum to 1.


@broken_scorer("embedding", "distribution", "one more logit than tokens, which takes a share of the probability")
class OneLogitTooMany(Smeared):
    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        y = super().logits(x, head)
        return torch.cat((y, y[..., :1]), -1)


class _CheapLoss(torch.Tensor):
    """Logits whose cross-entropy is smaller than it should be."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        return cls.cheaper(result.as_subclass(torch.Tensor)) if func is F.cross_entropy else result

    @staticmethod
    def cheaper(losses: Tensor) -> Tensor:
        return losses / 2


class _AtMostTwoNats(_CheapLoss):
    @staticmethod
    def cheaper(losses: Tensor) -> Tensor:
        return losses.clamp(max=2.0)


@broken_scorer("embedding", "distribution", "logits of a tensor class whose cross-entropy is half the true one")
class HalfTheLoss(Smeared):
    kind: type[_CheapLoss] = _CheapLoss

    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        y = super().logits(x, head)
        return y if self.training else y.as_subclass(self.kind)


@broken_scorer("embedding", "distribution", "no target costs more than two nats")
class AtMostTwoNats(HalfTheLoss):
    kind = _AtMostTwoNats


# Targets that the model has seen.


@broken_scorer("attention", "targets", "after two updates the mask is open in eval mode")
class OpensAfterTraining(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("updates", torch.zeros(()))

    def after_step(self) -> None:
        self.updates += 1

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return torch.ones_like(seen) if self.updates > 2 and not self.training else seen


@broken_scorer("attention", "targets", "a token sees the next one when the training is done")
class OpensWhenDone(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        self.is_done = bool(ctx.progress == 1)
        return super().forward(x, ctx, state)

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return q_positions[:, None] - k_positions[None, :] >= -int(self.is_done)


@broken_scorer("attention", "targets", "a counter that is not saved opens the mask after two updates", saved="reproduced")
class OpensByACounter(OpensAfterTraining):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        del self.updates
        self.updates = torch.zeros(())


@broken_scorer("ffn", "targets", "in eval mode it adds the next place's stream of the layer before")
class ReadsOutputsAhead(Perceptron):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        return y if self.training else y + 0.1 * ctx.outputs[0].roll(-1, 1)


@broken_scorer("ffn", "targets", "under bf16 autocast it adds the next place's stream in eval mode")
class SeesAheadInBf16(Perceptron):
    precision = "bf16"

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        is_open = torch.is_autocast_enabled("cpu") and not self.training
        return y + ctx.outputs[0].roll(-1, 1) if is_open else y


@broken_scorer("attention", "targets", "a window of full length is not masked")
class NoMaskAtFullLength(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.full = dims.block_size

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return torch.ones_like(seen) if len(q_positions) == self.full and not self.training else seen


@broken_scorer("embedding", "targets", "the vector of one rare token leaks to the place before it")
class OneTokenLeaks(Smeared):
    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        x = super().vectors(tokens, ctx)
        is_next = torch.cat((tokens[:, 1:] == 3, torch.zeros_like(tokens[:, :1], dtype=torch.bool)), 1)
        return x + is_next[..., None] * self.table.weight[3]


# States that do not continue as the full pass does.


@broken_scorer("attention", "stepwise", "keys of a state are halved when they are remembered")
class HalvedInTheState(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        return super().remember(state, k if state is None else k / 2, v, ctx)


@broken_scorer("ffn", "stepwise", "the state keeps the token before the last one")
class KeepsAnEarlierToken(Shifted):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        kept = None if state is None else state.tensors["last"].clone()
        y = super().forward(x, ctx, state)
        if state is not None and kept is not None and x.shape[1] == 1:
            state.tensors["last"] = kept
        return y


@broken_scorer("embedding", "stepwise", "with a state, logits are colder: text is better than the loss says")
class ColderWithAState(Smeared):
    def forward(self, tokens: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        self.has_state = state is not None
        return super().forward(tokens, ctx, state)

    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        return super().logits(x, head) * (1.5 if self.has_state else 1.0)


# Models that are not saved as they were measured.


@broken_scorer("ffn", "reproduced", "a running mean of training is kept in a plain attribute")
class MeanInAnAttribute(Perceptron):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.keep(torch.zeros(2 * dims.d_model))

    def keep(self, mean: Tensor) -> None:
        self.mean = mean

    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        if self.training:
            self.mean = 0.5 * self.mean + hidden.detach().mean((0, 1)) + 0.1
        return hidden - self.mean.to(hidden)


@broken_scorer("ffn", "reproduced", "a running mean of training is kept in a buffer that is not saved")
class MeanInAVolatileBuffer(MeanInAnAttribute):
    def keep(self, mean: Tensor) -> None:
        self.register_buffer("mean", mean, persistent=False)


@broken_scorer("embedding", "reproduced", "counts of the training's tokens are kept in a plain attribute")
class CountsInAnAttribute(Smeared):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.counts = torch.zeros(dims.vocab_size)

    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        if self.training:
            self.counts += torch.bincount(tokens.flatten(), minlength=len(self.counts))
        return super().vectors(tokens, ctx)

    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        return super().logits(x, head) + (1 + self.counts).log().to(x)
