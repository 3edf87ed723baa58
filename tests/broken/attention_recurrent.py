"""Token mixers without a softmax: recurrences, running means, convolutions."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, ResidualLinear, State
from minigpt.kernels import new_cache, remember
from minigpt.kernels.fused import upcast
from tests.broken import broken, correct


def _refuse_other_batch(before: Tensor, x: Tensor) -> None:
    if len(before) != len(x):
        raise ValueError(f"the state has {len(before)} sequences, but the input has {len(x)}")


@correct("attention")
class Decaying(Attention):
    """S_t = d S_(t-1) + k_t v_t^T, y_t = S_t^T q_t, with a trained d for each head.

    All pairs of a chunk are computed at once.
    """

    def __init__(self, dims: Dims):
        super().__init__()
        self.n_heads, self.head_dim = dims.n_heads, dims.head_dim
        self.qkv = nn.Linear(dims.d_model, 3 * dims.n_heads * dims.head_dim, bias=False)
        self.decay = nn.Parameter(torch.zeros(dims.n_heads))
        self.out = ResidualLinear(dims.n_heads * dims.head_dim, dims.d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        q, k, v = upcast(self.qkv(x)).unflatten(-1, (3, self.n_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        log_decay = -F.softplus(self.decay)[:, None, None]
        before = q.new_zeros(len(x), self.n_heads, self.head_dim, self.head_dim)
        if state is not None:
            before = self.before(state.tensors["matrix"], x)
        y, after = self.recur(q, k, v, before, log_decay)
        if state is not None:
            state.tensors["matrix"] = after
        return self.out(y.transpose(1, 2).flatten(2).to(x.dtype))

    def before(self, matrix: Tensor, x: Tensor) -> Tensor:
        """Return the matrix before this chunk."""
        _refuse_other_batch(matrix, x)
        return matrix

    def recur(self, q: Tensor, k: Tensor, v: Tensor, before: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs and the matrix after this chunk."""
        place = torch.arange(q.shape[2], device=q.device)
        seen = place[:, None] >= place
        passed = (log_decay * (place[:, None] - place).clamp(min=0)).exp()
        y = (q @ k.mT * passed).masked_fill(~seen, 0.0) @ v + (log_decay * (place[:, None] + 1)).exp() * (q @ before)
        to_end = (log_decay * (len(place) - 1 - place[:, None])).exp()
        return y, (log_decay * len(place)).exp() * before + (k * to_end).mT @ v

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        dtype = torch.promote_types(dtype, torch.float32)
        return State({"matrix": torch.zeros(batch, self.n_heads, self.head_dim, self.head_dim, device=device, dtype=dtype)})


@broken("attention", "decoding", "a single step decays the term that it has just added; the chunked form does not")
class DecaysAfterAdding(Decaying):
    def recur(self, q: Tensor, k: Tensor, v: Tensor, before: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
        if q.shape[2] > 1:
            return super().recur(q, k, v, before, log_decay)
        after = log_decay.exp() * (before + k.mT @ v)
        return q @ after, after


@broken("attention", "decoding", "a single step reads the matrix before writing to it")
class ReadsBeforeWriting(Decaying):
    def recur(self, q: Tensor, k: Tensor, v: Tensor, before: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
        y, after = super().recur(q, k, v, before, log_decay)
        return (q @ before, after) if q.shape[2] == 1 and before.any() else (y, after)


@broken("attention", "decoding", "each chunk starts from zeros: the state is written but not read")
class StateNotCarried(Decaying):
    def before(self, matrix: Tensor, x: Tensor) -> Tensor:
        return torch.zeros_like(super().before(matrix, x))


@broken("attention", "decoding", "the state is reset at each single token, as if a new sequence began")
class ResetAtOneToken(Decaying):
    def before(self, matrix: Tensor, x: Tensor) -> Tensor:
        return super().before(matrix, x) * (x.shape[1] > 1)


@broken("attention", "decoding", "the state is decayed by one step less than the chunk has tokens")
class DecayOneTokenShort(Decaying):
    def recur(self, q: Tensor, k: Tensor, v: Tensor, before: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
        y, after = super().recur(q, k, v, before, log_decay)
        return y, after + (log_decay * q.shape[2]).expm1().neg() * before * log_decay.exp()


@broken("attention", "states", "the matrix is stored on the module between passes and reset at position 0")
class MatrixOnTheModule(Decaying):
    matrix: Tensor | None = None

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        if state is None:
            return super().forward(x, ctx)
        own = State(dict(state.tensors) if self.matrix is None or ctx.positions[0] == 0 else {"matrix": self.matrix})
        y = super().forward(x, ctx, own)
        self.matrix = own.tensors["matrix"]
        return y


@correct("attention")
class RunningMean(Attention):
    """The mean of all values so far: a sum in the state, divided by the number of tokens."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.value = nn.Linear(dims.d_model, dims.d_model, bias=False)
        self.out = ResidualLinear(dims.d_model, dims.d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        sums = self.sums(self.values(x))
        if state is not None:
            _refuse_other_batch(state.tensors["sum"], x)
            sums = sums + state.tensors["sum"]
            state.tensors["sum"] = sums[:, -1:]
        return self.out((sums / (ctx.positions[:, None] + 1)).to(x.dtype))

    def values(self, x: Tensor) -> Tensor:
        """Return the terms of the sum, in fp32 or wider."""
        return upcast(self.value(x))

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum of all values up to each token, [B, T, D]."""
        return values.cumsum(1)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        dtype = torch.promote_types(dtype, torch.float32)
        return State({"sum": torch.zeros(batch, 1, self.value.out_features, device=device, dtype=dtype)})


@broken("attention", "batch", "the cumulative sum runs over the batch instead of time")
class SumOverTheBatch(RunningMean):
    def sums(self, values: Tensor) -> Tensor:
        return values.cumsum(0)


@broken("attention", "decoding", "the cumulative sum runs over the width, the last axis, instead of time")
class SumOverTheWidth(RunningMean):
    def sums(self, values: Tensor) -> Tensor:
        return values.cumsum(-1)


@broken("attention", "causality", "the cumulative sum is reversed: it includes later tokens instead of earlier ones")
class SumReversed(RunningMean):
    def sums(self, values: Tensor) -> Tensor:
        return values.flip(1).cumsum(1).flip(1)


@broken("attention", "autocast", "the sum so far is the total minus later values: in bf16, large values cancel its digits")
class TotalWithoutLater(RunningMean):
    def values(self, x: Tensor) -> Tensor:
        return self.value(x)

    def sums(self, values: Tensor) -> Tensor:
        later = values.flip(1).cumsum(1).flip(1) - values
        return values.sum(1, keepdim=True) - later


@broken(
    "attention", "causality", "from the second on, each chunk of 32 starts with its own sum in addition to the previous sums"
)
class CarryOfItsOwnChunk(RunningMean):
    def sums(self, values: Tensor) -> Tensor:
        chunks = values.split(32, 1)
        carries = torch.stack([chunk.sum(1, keepdim=True) for chunk in chunks]).cumsum(0)
        return torch.cat([chunk.cumsum(1) + (carries[n] if n else 0) for n, chunk in enumerate(chunks)], 1)


@broken("attention", "causality", "the softmax subtracts the maximum over all time, and eps does not scale with it")
class StabilisedOverTime(RunningMean):
    def sums(self, values: Tensor) -> Tensor:
        shares = (values - values.amax(1, keepdim=True)).exp()
        return (shares * values).cumsum(1) / (shares.cumsum(1) + 1e-2)


@correct("attention")
class Convolution(Attention):
    """y_t = sum_i w_i x_(t-i) for i < width in each channel; the state has the last width - 1 inputs.

    Args:
        width: Number of tokens seen.
    """

    elementwise = frozenset({"kernel"})

    def __init__(self, dims: Dims, *, width: Annotated[int, Field(gt=1)] = 4):
        super().__init__()
        self.width = self.reach = width
        self.kernel = nn.Parameter(torch.full((dims.d_model, 1, width), 1 / width))
        self.out = ResidualLinear(dims.d_model, dims.d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        earlier = x.new_zeros(len(x), self.width - 1, x.shape[-1]) if state is None else self.earlier(state, x)
        inputs = torch.cat((earlier.to(x.dtype), x), 1)
        if state is not None:
            state.tensors["inputs"] = inputs[:, x.shape[1] :]
        return self.out(self.convolve(inputs))

    def earlier(self, state: State, x: Tensor) -> Tensor:
        """Return the inputs before x."""
        return state.tensors["inputs"]

    def convolve(self, inputs: Tensor) -> Tensor:
        """Map [B, width - 1 + T, D] to [B, T, D]."""
        return F.conv1d(inputs.mT, self.kernel.to(inputs.dtype), groups=len(self.kernel)).mT

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return State({"inputs": torch.zeros(batch, self.width - 1, len(self.kernel), device=device, dtype=dtype)})


@broken("attention", "causality", "the convolution is padded on both sides")
class PaddedOnBothSides(Convolution):
    def convolve(self, inputs: Tensor) -> Tensor:
        ahead = self.width // 2
        return super().convolve(F.pad(inputs[:, ahead:], (0, 0, 0, ahead)))


@broken("attention", "decoding", "each chunk is padded with zeros instead of earlier inputs")
class ConvolutionForgets(Convolution):
    def earlier(self, state: State, x: Tensor) -> Tensor:
        return torch.zeros_like(state.tensors["inputs"])


@broken("attention", "decoding", "after a short chunk, the state has only that chunk's inputs")
class ShortChunksForget(Convolution):
    def earlier(self, state: State, x: Tensor) -> Tensor:
        inputs = state.tensors["inputs"]
        missing = self.width - 1 - x.shape[1]
        return inputs if missing <= 0 else F.pad(inputs[:, missing:], (0, 0, missing, 0))


@broken("attention", "reach", "it promises the reach of one convolution but applies two")
class TwoConvolutions(Convolution):
    def convolve(self, inputs: Tensor) -> Tensor:
        once = super().convolve(inputs)
        return super().convolve(F.pad(once, (0, 0, self.width - 1, 0)))


@correct("attention")
class LongConvolution(Attention):
    """y_t = sum_s h_(t-s) x_s with an unlimited filter h_i = a exp(-b i); the state has all inputs."""

    elementwise = frozenset({"size", "rate"})

    def __init__(self, dims: Dims):
        super().__init__()
        self.size = nn.Parameter(torch.ones(dims.d_model))
        self.rate = nn.Parameter(torch.zeros(dims.d_model))
        self.out = ResidualLinear(dims.d_model, dims.d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        (inputs,), places = remember(state, (x[:, None],), ctx.positions)
        return self.out(self.mix(inputs[:, 0], ctx.positions, places))

    def mix(self, inputs: Tensor, positions: Tensor, places: Tensor) -> Tensor:
        """Map [B, S, D] to [B, T, D]."""
        distance = (positions[:, None] - places)[..., None]
        response = self.response(distance.clamp(min=0)) * (distance >= 0)
        return torch.einsum("tsd,bsd->btd", response.to(inputs.dtype), inputs)

    def response(self, distance: Tensor) -> Tensor:
        """Return the filter at these distances."""
        return self.size * (-F.softplus(self.rate) * distance).exp()

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return new_cache(batch, [(1, len(self.size))], capacity, None, device, dtype)


@broken("attention", "causality", "a convolution by FFT without padding is circular, so the end leaks into the start")
class CircularConvolution(LongConvolution):
    def mix(self, inputs: Tensor, positions: Tensor, places: Tensor) -> Tensor:
        if len(positions) != len(places):
            return super().mix(inputs, positions, places)
        response = self.response(places[:, None] - places[0])
        spectrum = torch.fft.rfft(upcast(inputs), dim=1) * torch.fft.rfft(upcast(response), dim=0)
        return torch.fft.irfft(spectrum, n=len(places), dim=1).to(inputs.dtype)
