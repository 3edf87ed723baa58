"""The focal loss: an example plugin, an objective.

Use it by naming this file in an experiment's "plugins" (see experiments/focal.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/focal.py --set model.objective=focal
"""

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


@register("objective", "focal")
class Focal(Objective):
    """Cross-entropy with less weight on tokens that the model predicts well already (Lin et al. 2017, arXiv:1708.02002).

    loss_t = -(1 - p_t)^gamma log p_t, with p_t the probability of the target

    Validation stays the cross-entropy of the next token, so a run can be compared with one that minimises it.

    Args:
        gamma: 0 is the cross-entropy. The paper finds 2 best for objects in images.
    """

    def __init__(self, dims: Dims, layer: Layer, *, gamma: Annotated[float, Field(ge=0, le=16)] = 2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, prediction: Prediction) -> Float[Tensor, ""]:
        logits, targets = upcast(prediction.logits), prediction.targets
        surprise = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        # Above 0, where a power below 1 has a finite slope. expm1 keeps the digits of 1 - p where p is near 1.
        missing = -torch.expm1(-surprise)
        weight = missing.clamp(min=torch.finfo(missing.dtype).tiny) ** self.gamma
        return prediction.mean((weight * surprise).view_as(targets))
