"""A short causal convolution of each channel, which several mixers use before or in place of attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minigpt.contracts import Component, State


class CausalConvolution(Component):
    """y_t = sum_i w_(width-1-i) x_(t-i) + b for i < width, for each channel separately.

    Args:
        channels: Number of input and output channels.
        width: Number of tokens in the convolution, the token itself included.
        bias: Whether to add b.
    """

    elementwise = frozenset({"weight"})

    def __init__(self, channels: int, width: int, *, bias: bool = False):
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(channels, 1, width))  # the last weight is for the token itself
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        nn.init.uniform_(self.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def forward(
        self, x: Float[Tensor, "batch time channels"], state: State | None = None
    ) -> Float[Tensor, "batch time channels"]:
        """Convolve, from zeros or from the state."""
        batch, time, channels = x.shape
        earlier = x.new_zeros(batch, self.width - 1, channels) if state is None else state.tensors["inputs"].to(x.dtype)
        inputs = torch.cat((earlier, x), 1)
        if state is not None:
            state.tensors["inputs"] = inputs[:, time:].to(state.tensors["inputs"].dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv1d(inputs.mT.contiguous(), self.weight.to(x.dtype), bias, groups=channels).mT.contiguous()

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State | None:
        if self.width == 1:
            return None
        return State({"inputs": torch.zeros(batch, self.width - 1, self.weight.shape[0], device=device, dtype=dtype)})
