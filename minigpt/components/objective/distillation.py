"""Learning from the distributions of a trained model."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Dims, Layer, Objective, Prediction, RunPath
from minigpt.errors import ExperimentError, Problem
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("objective", "distillation")
class Distillation(Objective):
    """The next token's cross-entropy, and the distance to a teacher's distribution (Hinton et al. 2015, arXiv:1503.02531).

    (1 - weight) CE + weight T^2 KL(softmax(teacher / T) || softmax(logits / T)). The factor T^2 keeps the size of the
    gradients. The teacher is the best checkpoint of a finished run with the same vocabulary; its weights do not change.

    Args:
        run: Folder of the teacher's run.
        temperature: T: higher ones show more of the teacher's less likely tokens.
        weight: Share of the teacher.
    """

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        run: RunPath,
        temperature: Annotated[float, Field(gt=0, le=1000)] = 2.0,
        weight: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ):
        super().__init__()
        self.run, self.temperature, self.weight = run, temperature, weight

    def forward(self, prediction: Prediction) -> Float[Tensor, ""]:
        if prediction.ctx.segments is not None or prediction.remembers:
            text = "a teacher cannot read batches with segments or memory; choose another training.batching"
            raise ExperimentError([Problem(("model.objective",), text)])
        logits, targets = upcast(prediction.logits), prediction.targets
        taught = upcast(prediction.open_run(self.run)(prediction.tokens)) / self.temperature
        own = (logits / self.temperature).log_softmax(-1)
        distance = F.kl_div(own, taught.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        return prediction.mean((1 - self.weight) * each + self.weight * self.temperature**2 * distance)
