"""Hyena: gated long convolutions."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.components.attention.convolution import CausalConvolution
from minigpt.contracts import Attention, Context, Dims, InnerLinear, ResidualLinear, State, substate
from minigpt.kernels import new_cache, remember
from minigpt.kernels.fused import upcast
from minigpt.registry import register

_CHUNK = 64


@register("attention", "hyena")
class Hyena(Attention):
    """Convolutions as long as the sequence, with gates between them (Poli et al. 2023, arXiv:2302.10866, definition 3.1).

    z_1 = v;  z_(n+1) = x_n * (h_n conv z_n + d_n z_n);  y = W_out z_(order+1);  v, x_1, ... = short convolutions of W_in x
    h_n(t) = perceptron(1, sines and cosines of t/L) * exp(-a t/L), L = block_size, a from slow to fast over the channels

    The authors' code has one more layer in the perceptron, trains the frequency, and leaves out the first of the `order`
    convolutions. It initialises d with normal random numbers; here d starts at 1.

    The state holds the inputs of the convolutions, so it grows with each token, like an attention cache.

    Args:
        order: Number of gates and of long convolutions.
        filter_width: Hidden width of the perceptron that computes the filters.
        bands: Frequencies of its sines and cosines of time.
        frequency: Factor inside its sine activations.
        conv_width: Tokens in the short convolutions.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        order: Annotated[int, Field(gt=0, le=8)] = 2,
        filter_width: Annotated[int, Field(gt=0, le=1 << 17)] = 64,
        bands: Annotated[int, Field(gt=0, le=1 << 17)] = 16,
        frequency: Annotated[float, Field(gt=0)] = 10.0,
        conv_width: Annotated[int, Field(gt=0, le=64)] = 3,
    ):
        super().__init__()
        self.order, self.channels, self.length = order, dims.d_model, dims.block_size
        self.bands, self.frequency = bands, frequency
        self.into = nn.Linear(dims.d_model, (order + 1) * dims.d_model)
        self.short = CausalConvolution((order + 1) * dims.d_model, conv_width, bias=True)
        self.filter = nn.ModuleList(
            [
                InnerLinear(1 + 2 * bands, filter_width),
                InnerLinear(filter_width, filter_width),
                InnerLinear(filter_width, order * dims.d_model, bias=False),
            ]
        )
        self.direct = nn.Parameter(torch.ones(order * dims.d_model))
        self.out = ResidualLinear(dims.d_model, dims.d_model)

    def init_weights(self) -> None:
        """Use torch's defaults in the perceptron: with the model-wide deviation its output would be almost constant."""
        for layer in self.filter:
            assert isinstance(layer, nn.Linear)
            layer.reset_parameters()

    def filters(self, time: int) -> Float[Tensor, "order time channels"]:
        """h_n at lags 0 to time - 1, in fp32 at least."""
        device, dtype = self.direct.device, upcast(self.direct).dtype
        with torch.autocast(device.type, enabled=False):
            lag = torch.arange(time, device=device, dtype=dtype)[:, None] / self.length
            # bands from 1e-4 to bands - 1 whole turns over block_size tokens, as published
            angles = (
                2 * math.pi * lag * torch.linspace(1e-4, max(self.bands - 1, 1e-4), self.bands, device=device, dtype=dtype)
            )
            hidden = torch.cat((lag, angles.cos(), -angles.sin()), -1)
            for layer in self.filter[:-1]:
                hidden = (self.frequency * layer(hidden)).sin()
            # exp(-a t/L) falls to 1/100 after 1.5 (slow) to 0.3 (fast) of L
            rates = math.log(100) / torch.linspace(1.5, 0.3, self.channels, device=device, dtype=dtype)
            window = (-lag * rates).exp()
            return self.filter[-1](hidden).view(time, self.order, self.channels).transpose(0, 1) * window

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        time = x.shape[1]
        z, *gates = self.short(self.into(x), substate(state, "short")).chunk(self.order + 1, -1)
        filters: Tensor | None = None
        for number, gate in enumerate(gates):
            (history,), _ = remember(substate(state, str(number)), (z[:, None],), ctx.positions)
            source = history.shape[2]
            if filters is None:  # for whole contexts, so that a lag's value does not depend on how many lags are computed
                filters = self.filters(math.ceil(source / self.length) * self.length)[:, :source]
            convolved = convolve(history[:, 0], filters[number], time)
            z = gate * (convolved + self.direct.view(self.order, -1)[number].to(z.dtype) * z)
        return self.out(z)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        caches: dict[str, State] = {
            str(number): new_cache(batch, [(1, self.channels)], capacity, None, device, dtype)
            for number in range(self.order)
        }
        short = self.short.new_state(batch, capacity, device, dtype)
        return State(children=caches if short is None else {**caches, "short": short})


def convolve(
    x: Float[Tensor, "batch source channels"], taps: Float[Tensor, "source channels"], time: int
) -> Float[Tensor, "batch time channels"]:
    """The last `time` values of y_t = sum_(s <= t) taps_(t-s) x_s, for each channel separately, in fp32.

    A Fourier transform of the whole sequence would mix the rounding of later tokens into earlier outputs. So chunks are
    transformed one by one (partitioned convolution, Gardner 1995): contributions of earlier chunks go through their
    transforms, those of the same chunk through products. Later tokens never enter. Cost: time^2 / 64 + 64 time per channel.
    """
    dtype = x.dtype
    with torch.autocast(x.device.type, enabled=False):
        x, taps, source = upcast(x), upcast(taps), x.shape[1]
        if time == 1:
            return torch.einsum("bsc,sc->bc", x, taps.flip(0))[:, None].to(dtype)
        chunk = min(_CHUNK, source)
        missing = -source % chunk
        x = nn.functional.pad(x, (0, 0, 0, missing)).mT.reshape(x.shape[0], x.shape[2], -1, chunk)  # [B, D, N, C]
        taps = nn.functional.pad(taps, (0, 0, 0, missing)).mT  # [D, N C]
        lags = torch.arange(chunk, device=x.device)
        lags = lags[:, None] - lags[None, :]
        own = taps[:, lags.clamp(min=0)].masked_fill(lags < 0, 0.0)  # [D, C, C]
        y = torch.einsum("dij,bdnj->bdni", own, x)
        number = x.shape[2]
        if number > 1:
            # Chunk i - m reaches chunk i through the lags (m - 1) C + 1 to (m + 1) C - 1: windows of 2 C lags.
            windows = torch.fft.rfft(taps.unfold(1, 2 * chunk, chunk))  # [D, N - 1, C + 1]
            spectra = torch.fft.rfft(x, n=2 * chunk)  # [B, D, N, C + 1]
            earlier = torch.zeros_like(spectra)
            for m in range(1, number):
                reached = spectra[:, :, : number - m] * windows[:, m - 1, None]
                earlier = earlier + nn.functional.pad(reached, (0, 0, m, 0))
            y = y + torch.fft.irfft(earlier, n=2 * chunk)[..., chunk:]
        return y.flatten(2).mT[:, source - time : source].to(dtype)
