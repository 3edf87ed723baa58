"""my_part: a normalisation of the last axis.

It receives vectors x [..., width] with any leading axes, and returns vectors of the
same shape and dtype. Keyword-only arguments are its JSON parameters: annotate each one,
give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- each vector is normalised separately: no mean over time, no mean over the batch;
- the output is finite and of x's dtype, also for zeros and for large inputs;
- every parameter gets a gradient and every keyword argument changes something;
- its promise holds: `scaling`, the output for inputs multiplied by a > 0. "invariant"
  is the same output (up to eps), "equivariant" the output multiplied by a. None
  promises nothing.

Edit first: `size`, and `scaling` if the promise no longer holds.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Norm
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("norm", "my_part")
class MyPart(Norm):
    """gain * x / (mean |x| + eps): RMSNorm with the mean size instead of the root.

    Args:
        eps: Added to the mean size; small, or the promise of `scaling` would not hold.
        gain: Initial gain, trained for each coordinate.
    """

    scaling = "invariant"

    def __init__(
        self,
        width: int,
        *,
        eps: Annotated[float, Field(gt=0, le=1e-3)] = 1e-6,
        gain: Annotated[float, Field(gt=0)] = 1.0,
    ):
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.full((width,), gain))

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        size = upcast(x).abs().mean(dim=-1, keepdim=True)  # in fp32, also under bf16
        return (self.gain * (x / (size + self.eps))).to(x.dtype)
