"""Root-mean-square normalisation by groups: an example plugin, a norm with a promise about scale.

Use it by naming this file in an experiment's "plugins" (see experiments/group_rms.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/group_rms.py --set model.norm=group_rms
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Norm
from minigpt.registry import register


@register("norm", "group_rms")
class GroupRMSNorm(Norm):
    """RMSNorm of each group of neighbouring channels separately, so a large channel affects only its own group.

    y_g = x_g / sqrt(mean(x_g^2) + eps) * gain_g

    Group normalisation (Wu & He 2018, arXiv:1803.08494) with the root mean square of Zhang & Sennrich 2019
    (arXiv:1910.07467) in place of mean and variance. With one group it is RMSNorm.

    Args:
        groups: Number of groups of width / groups channels, which must be at least 2: of 1 only the sign would remain.
        eps: Added to each group's mean square.
    """

    scaling = "invariant"

    def __init__(self, width: int, *, groups: Annotated[int, Field(ge=1)] = 4, eps: Annotated[float, Field(gt=0)] = 1e-6):
        super().__init__()
        if width % groups or width // groups < 2:
            raise ValueError(f"a width of {width} cannot be cut into {groups} equal groups of two channels or more")
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        groups = x.view(*x.shape[:-1], self.groups, -1)
        return F.rms_norm(groups, groups.shape[-1:], eps=self.eps).flatten(-2) * self.weight.to(x.dtype)
