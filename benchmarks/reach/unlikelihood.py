"""Unlikelihood training: an objective that lowers the probability of repetitions."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Dims, Layer, Objective, Prediction
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("objective", "unlikelihood")
class Unlikelihood(Objective):
    """Cross-entropy, and a penalty on tokens that the row already has (Welleck et al. 2019, arXiv:1908.04319, section 4).

    loss_t = -log p_t(x_(t+1)) - weight * sum over c in {x_1 ... x_t} without x_(t+1) of log(1 - p_t(c))

    The penalty is recorded as the auxiliary loss.

    Args:
        weight: The paper's alpha.
    """

    def __init__(self, dims: Dims, layer: Layer, *, weight: Annotated[float, Field(gt=0)] = 1.0):
        super().__init__()
        self.weight = weight

    def forward(self, prediction: Prediction) -> Float[Tensor, ""]:
        log_p, targets = upcast(prediction.logits).log_softmax(-1), prediction.targets
        candidates = F.one_hot(prediction.tokens, log_p.shape[-1]).cumsum(1) > 0
        candidates = candidates.scatter(-1, targets[..., None], False)
        others = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).eps).log()
        prediction.ctx.losses.append(-self.weight * prediction.mean((others * candidates).sum(-1)))
        return prediction.mean(-log_p.gather(-1, targets[..., None])[..., 0])
