"""The usual objective: the cross-entropy of the next token."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Dims, Layer, Objective, Prediction
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("objective", "next_token")
class NextToken(Objective):
    """Mean cross-entropy of the next token, in nats.

    Args:
        label_smoothing: Share of each target that is spread over all tokens (Szegedy et al. 2015, arXiv:1512.00567).
        z_loss: Weight of the squared log-partition, an auxiliary loss (PaLM: arXiv:2204.02311: 1e-4).
    """

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        z_loss: Annotated[float, Field(ge=0)] = 0.0,
    ):
        super().__init__()
        self.label_smoothing, self.z_loss = label_smoothing, z_loss

    def forward(self, prediction: Prediction) -> Float[Tensor, ""]:
        logits, targets = upcast(prediction.logits), prediction.targets
        each = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=self.label_smoothing
        )
        if self.z_loss:
            prediction.ctx.losses.append(self.z_loss * prediction.mean(logits.logsumexp(-1).square()))
        return prediction.mean(each.view_as(targets))
