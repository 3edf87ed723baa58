"""Broken feed-forwards."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, FeedForward, ResidualLinear, State
from tests.broken import broken, correct


@correct("ffn")
class Perceptron(FeedForward):
    """W_out f(W_in x).

    Args:
        expansion: Hidden width as a multiple of d_model.
        activation: f.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        expansion: Annotated[int, Field(gt=0, le=8)] = 2,
        activation: Literal["silu", "gelu"] = "silu",
    ):
        super().__init__()
        self.into = nn.Linear(dims.d_model, expansion * dims.d_model, bias=False)
        self.out = ResidualLinear(expansion * dims.d_model, dims.d_model, bias=False)
        self.activation = {"silu": F.silu, "gelu": F.gelu}[activation]

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return self.out(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """Return the hidden units, [B, T, expansion D]."""
        return self.activation(self.into(x))


@correct("ffn")
class Shifted(Perceptron):
    """The previous token's input is added to each token's input (RWKV's token shift)."""

    def __init__(self, dims: Dims):
        super().__init__(dims)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        before = torch.zeros_like(x[:, :1]) if state is None else state.tensors["last"].to(x.dtype)
        earlier = torch.cat((before, x), 1)[:, : x.shape[1]]
        if state is not None:
            state.tensors["last"] = self.last(x)
        return self.out(self.hidden(x + earlier))

    def last(self, x: Tensor) -> Tensor:
        """Return the token that the next chunk needs."""
        return x[:, -1:]

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State | None:
        return State({"last": torch.zeros(batch, 1, self.into.in_features, device=device, dtype=dtype)})


@correct("ffn")
class Experts(FeedForward):
    """Each token goes to one of four experts, the one with the highest router score."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.router = nn.Linear(dims.d_model, 4, bias=False)
        self.experts = nn.ModuleList(ResidualLinear(dims.d_model, dims.d_model, bias=False) for _ in range(4))

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        scores = self.scores(x)
        outputs = torch.stack([expert(x) for expert in self.experts], -2)
        return (outputs * (scores.softmax(-1) * self.chosen(scores))[..., None]).sum(-2)

    def scores(self, x: Tensor) -> Tensor:
        """Return the router's scores, [B, T, experts]."""
        return self.router(x)

    def chosen(self, scores: Tensor) -> Tensor:
        """Return the experts of each token, one-hot."""
        return F.one_hot(scores.argmax(-1), scores.shape[-1])


@broken("ffn", "causality", "a shift with roll moves the last token to the first place")
class ShiftedByRoll(Perceptron):
    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x + x.roll(1, 1))


@broken("ffn", "causality", "a mean over time gates the hidden units (squeeze-and-excitation)")
class MixesTheMean(Perceptron):
    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        return hidden * hidden.mean(1, keepdim=True).sigmoid()


@broken("ffn", "causality", "each expert takes its highest-scoring tokens of the whole sequence (expert choice)")
class ExpertsChoose(Experts):
    def chosen(self, scores: Tensor) -> Tensor:
        places = max(1, scores.shape[1] // scores.shape[-1])
        return scores >= scores.topk(places, 1).values[:, -1:]


@broken("ffn", "causality", "the gate's softmax runs over time instead of the width")
class GateOverTime(Perceptron):
    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) * super().hidden(x).softmax(1)


@broken("ffn", "batch", "experts have a capacity for the whole batch, which earlier sequences can use up")
class CapacityOverTheBatch(Experts):
    def chosen(self, scores: Tensor) -> Tensor:
        chosen = super().chosen(scores).flatten(0, 1)
        places = max(1, len(chosen) // (2 * scores.shape[-1]))
        return (chosen * (chosen.cumsum(0) <= places)).view_as(scores)


@broken("ffn", "tokenwise", "an expert has a capacity for each sequence, but decoding does not count used places")
class CapacityOverTheSequence(Experts):
    def chosen(self, scores: Tensor) -> Tensor:
        chosen = super().chosen(scores)
        return chosen * (chosen.cumsum(1) <= max(1, scores.shape[1] // scores.shape[-1]))


@broken("ffn", "tokenwise", "the token shift has no state, so in decoding each chunk is shifted from zeros")
class ShiftWithoutState(Shifted):
    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State | None:
        return None


@broken("ffn", "decoding", "the token shift keeps the first token of a chunk instead of its last")
class KeepsTheFirst(Shifted):
    def last(self, x: Tensor) -> Tensor:
        return x[:, :1]


@broken("ffn", "states", "the last token is stored on the module, so a second sequence is shifted from the first")
class LastTokenOnTheModule(Shifted):
    kept: Tensor | None = None

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        if state is not None and self.kept is not None and ctx.positions[0] > 0:
            state.tensors["last"] = self.kept
        y = super().forward(x, ctx, state)
        self.kept = None if state is None else state.tensors["last"]
        return y


@broken("ffn", "determinism", "the router's noise is active in evaluation mode too")
class NoisyRouter(Experts):
    def scores(self, x: Tensor) -> Tensor:
        scores = super().scores(x)
        return scores + 0.1 * torch.randn_like(scores)


@broken("ffn", "determinism", "each expert's token count changes the next pass, in evaluation mode too")
class BalancesInForward(Experts):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("load", torch.zeros(4))

    def chosen(self, scores: Tensor) -> Tensor:
        chosen = super().chosen(scores - 0.1 * self.load)
        self.load += chosen.sum((0, 1))
        return chosen


@broken("ffn", "liveness", "a range ends too early, so one expert is never used")
class UnusedExpert(Experts):
    def scores(self, x: Tensor) -> Tensor:
        return F.pad(super().scores(x)[..., :3], (0, 1), value=-torch.inf)


@broken("ffn", "liveness", "scores do not weight the output and the choice has no gradient, so the router is not trained")
class RouterNotTrained(Experts):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        outputs = torch.stack([expert(x) for expert in self.experts], -2)
        return (outputs * self.chosen(self.scores(x))[..., None]).sum(-2)


@broken("ffn", "shape", "batch and time are flattened and not separated again")
class StaysFlat(Perceptron):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x.flatten(0, 1), ctx, state)


@broken("ffn", "autocast", "under autocast, hidden units are rounded to 8 bits with one scale per sequence")
class QuantisedInBf16(Perceptron):
    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        if hidden.dtype != torch.bfloat16:
            return hidden
        step = hidden.abs().amax((1, 2), keepdim=True) / 127 + 1e-6
        return (hidden / step).round() * step


@broken("ffn", "compile", "the compiled path uses an approximate activation")
class RoughWhenCompiled(Perceptron):
    def hidden(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return F.hardswish(self.into(x))
        return super().hidden(x)


@broken("ffn", "knobs", "an activation is accepted, but silu is always used")
class ActivationNotUsed(Perceptron):
    def hidden(self, x: Tensor) -> Tensor:
        return F.silu(self.into(x))


@broken("ffn", "weights", "weights come from a private generator, seeded by id(self)")
class OwnGenerator(Perceptron):
    def init_weights(self) -> None:
        generator = torch.Generator().manual_seed(id(self) % 2**32)
        nn.init.normal_(self.into.weight, std=0.02, generator=generator)


@broken("ffn", "weights", "weights come from a private generator with a fixed seed")
class FixedGenerator(Perceptron):
    def init_weights(self) -> None:
        nn.init.normal_(self.into.weight, std=0.02, generator=torch.Generator().manual_seed(1))


@broken("ffn", "weights", "torch is seeded before the weights are drawn")
class SeedsTorch(Perceptron):
    def init_weights(self) -> None:
        torch.manual_seed(42)
        nn.init.normal_(self.into.weight, std=0.02)


@broken("ffn", "weights", "a gate opens with the number of updates, which is a Python number")
class CountsUpdates(Perceptron):
    updates = 0

    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) * min(1.0, self.updates / 8)

    def after_step(self) -> None:
        self.updates += 1


@broken("ffn", "weights", "a gate opens with the number of updates, in a buffer that is not saved")
class CountsInBuffer(Perceptron):
    updates: Tensor

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("updates", torch.zeros(()), persistent=False)

    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) * (self.updates / 8).clamp(max=1)

    def after_step(self) -> None:
        self.updates += 1


@broken("ffn", "weights", "noise after each update comes from a generator that no checkpoint has")
class NoiseAfterUpdates(Perceptron):
    def after_step(self) -> None:
        if not hasattr(self, "generator"):
            self.generator = torch.Generator().manual_seed(0)
        weight = self.into.weight
        if weight.device.type == "cpu":
            weight.add_(0.01 * torch.randn(weight.shape, generator=self.generator))


@correct("ffn")
class SegmentedShift(Shifted):
    """The token before is added only if it is of the same segment."""

    uses = frozenset({"segments"})

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        before = torch.zeros_like(x[:, :1]) if state is None else state.tensors["last"].to(x.dtype)
        earlier = torch.cat((before, x), 1)[:, : x.shape[1]]
        if state is not None:
            state.tensors["last"] = self.last(x)
        if ctx.segments is not None:
            segments = torch.cat((self.first_segment(ctx.segments, state), ctx.segments), 1)
            earlier = earlier * (segments[:, :-1] == ctx.segments)[..., None]
            if state is not None:
                state.tensors["segment"] = ctx.segments[:, -1:]
        return self.out(self.hidden(x + earlier))

    def first_segment(self, segments: Tensor, state: State | None) -> Tensor:
        """Return the segment of the token before the first one."""
        return segments[:, :1] if state is None else state.tensors["segment"]

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State | None:
        state = super().new_state(batch, capacity, device, dtype)
        assert state is not None
        state.tensors["segment"] = torch.zeros(batch, 1, dtype=torch.long, device=device)
        return state


@broken("ffn", "uses", "segments are declared, but the first token of one is shifted from the segment before")
class ShiftsAcrossSegments(Shifted):
    uses = frozenset({"segments"})


@broken("ffn", "uses", "the state has no segment, so a chunk's first token counts as one of the same segment")
class ForgetsTheSegment(SegmentedShift):
    def first_segment(self, segments: Tensor, state: State | None) -> Tensor:
        return segments[:, :1]
