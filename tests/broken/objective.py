"""Broken objectives."""

from __future__ import annotations

import random
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Dims, Layer, Objective, Prediction
from minigpt.kernels.fused import upcast
from tests.broken import broken, correct


@correct("objective")
class Focal(Objective):
    """The mean of (1 - p)^gamma (-log p); each step is a method.

    Args:
        gamma: Likely targets count less with a larger one.
    """

    def __init__(self, dims: Dims, layer: Layer, *, gamma: Annotated[float, Field(ge=0, le=8)] = 1.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, prediction: Prediction) -> Tensor:
        each = self.log_likelihood(prediction)
        return self.mean(prediction, -each * (1 - each.exp()).clamp(min=1e-6) ** self.gamma)

    def log_likelihood(self, prediction: Prediction) -> Tensor:
        """Return log p of each target, [B, T]."""
        return self.normalised(prediction.logits).gather(-1, self.targets(prediction)[..., None])[..., 0]

    def normalised(self, logits: Tensor) -> Tensor:
        """Return log-probabilities."""
        return upcast(logits).log_softmax(-1)

    def targets(self, prediction: Prediction) -> Tensor:
        """Return the ids to predict."""
        return prediction.targets

    def mean(self, prediction: Prediction, each: Tensor) -> Tensor:
        """Return the mean over the targets that count."""
        return prediction.mean(each)


@correct("objective")
class TokenBefore(Focal):
    """A further map predicts the input token again, so that the hidden vectors keep it."""

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__(dims, layer)
        self.again = nn.Linear(dims.d_model, dims.vocab_size, bias=False)

    def forward(self, prediction: Prediction) -> Tensor:
        logits = upcast(self.again(self.hidden(prediction)))
        each = F.cross_entropy(logits.mT, prediction.tokens, reduction="none")
        prediction.ctx.losses.append(0.1 * self.further(prediction, each))
        return super().forward(prediction)

    def hidden(self, prediction: Prediction) -> Tensor:
        """Return what the further map reads."""
        return prediction.hidden

    def further(self, prediction: Prediction, each: Tensor) -> Tensor:
        """Return the further term."""
        return prediction.mean(each)


@broken("objective", "scalar", "the losses of all targets are returned, without a mean")
class NoMean(Focal):
    def mean(self, prediction: Prediction, each: Tensor) -> Tensor:
        return each


@broken("objective", "scalar", "the logarithm of a probability of 0, for large logits")
class LogOfSoftmax(Focal):
    def normalised(self, logits: Tensor) -> Tensor:
        return upcast(logits).softmax(-1).log()


@broken("objective", "scalar", "under autocast logits are bf16, and so is the loss")
class KeepsPrecision(Focal):
    def normalised(self, logits: Tensor) -> Tensor:
        return logits - logits.logsumexp(-1, keepdim=True)


@broken("objective", "scalar", "a further term is the mean over all tokens except the first: over none in a row of one")
class MeanOfNothing(TokenBefore):
    def further(self, prediction: Prediction, each: Tensor) -> Tensor:
        return each[:, 1:].mean()


@broken("objective", "validation", "a table of the model is normalised in place before each update")
class ChangesATable(Focal):
    def forward(self, prediction: Prediction) -> Tensor:
        with torch.no_grad():
            for table in prediction.ctx.position.parameters():
                table.copy_(F.normalize(table, dim=-1))
        return super().forward(prediction)


@broken("objective", "validation", "a hook is registered, which doubles the model's logits from then on")
class RegistersAHook(Focal):
    def forward(self, prediction: Prediction) -> Tensor:
        prediction.to_logits.__self__.norm.register_forward_hook(lambda _, given, x: 2 * x)  # type: ignore[attr-defined]
        return super().forward(prediction)


@broken("objective", "validation", "hidden vectors are normalised in place, so gradients belong to other values")
class ChangesHiddenVectors(Focal):
    def forward(self, prediction: Prediction) -> Tensor:
        prediction.hidden.data.copy_(F.normalize(prediction.hidden.data, dim=-1))
        return super().forward(prediction)


@broken("objective", "validation", "targets that do not count become -100 in place, in the trainer's batch too")
class ChangesTargets(Focal):
    def forward(self, prediction: Prediction) -> Tensor:
        loss = super().forward(prediction)
        if prediction.mask is not None:
            prediction.targets.masked_fill_(~prediction.mask, -100)
        return loss


@broken("objective", "masking", "the mean is taken over all targets")
class CountsAll(Focal):
    def mean(self, prediction: Prediction, each: Tensor) -> Tensor:
        return each.mean()


@broken("objective", "masking", "the mask says which targets to leave out")
class InvertedMask(Focal):
    def mean(self, prediction: Prediction, each: Tensor) -> Tensor:
        return each.mean() if prediction.mask is None else each[~prediction.mask].sum() / prediction.mask.sum()


@broken("objective", "additive", "the mean of the rows' means, in which targets of short rows weigh more")
class MeanOfMeans(Focal):
    def mean(self, prediction: Prediction, each: Tensor) -> Tensor:
        if prediction.mask is None:
            return each.mean()
        return ((each * prediction.mask).sum(1) / prediction.mask.sum(1).clamp(min=1)).mean()


@broken("objective", "additive", "only the harder half of the batch counts, so parts of a batch count differently")
class HarderHalf(Focal):
    def mean(self, prediction: Prediction, each: Tensor) -> Tensor:
        counted = each.flatten() if prediction.mask is None else each[prediction.mask]
        return counted.topk(-(-len(counted) // 2)).values.mean()


@broken("objective", "additive", "the term is divided by the batch's largest loss")
class DividesByTheLargest(TokenBefore):
    def further(self, prediction: Prediction, each: Tensor) -> Tensor:
        return prediction.mean(each) / each.detach().max()


@broken("objective", "learning", "the sign is wrong")
class WrongSign(Focal):
    def mean(self, prediction: Prediction, each: Tensor) -> Tensor:
        return -prediction.mean(each)


@broken("objective", "learning", "the input tokens are predicted, not the ones after them")
class PredictsItsInput(Focal):
    def targets(self, prediction: Prediction) -> Tensor:
        return prediction.tokens


@broken("objective", "learning", "targets are shifted once more, although they are shifted already")
class ShiftedTwice(Focal):
    def targets(self, prediction: Prediction) -> Tensor:
        return prediction.targets.roll(-1, 1)


@broken("objective", "learning", "the further map's loss is computed without gradients, so it is not trained")
class NotTrained(TokenBefore):
    def further(self, prediction: Prediction, each: Tensor) -> Tensor:
        return prediction.mean(each).detach()


@broken("objective", "repeatable", "the loss is divided by the mean of the losses so far, which is no buffer")
class RunningMean(Focal):
    seen = 1.0

    def mean(self, prediction: Prediction, each: Tensor) -> Tensor:
        loss = prediction.mean(each)
        self.seen = 0.9 * self.seen + 0.1 * float(loss)
        return loss / self.seen


@broken("objective", "repeatable", "targets are dropped with Python's random numbers, which a run does not restore")
class DropsWithPython(Focal):
    def mean(self, prediction: Prediction, each: Tensor) -> Tensor:
        return prediction.mean(each) * random.uniform(0.9, 1.1)


@broken("objective", "knobs", "gamma is stored, but its default is used")
class IgnoresGamma(Focal):
    def __init__(self, dims: Dims, layer: Layer, *, gamma: Annotated[float, Field(ge=0, le=8)] = 1.0):
        super().__init__(dims, layer)
        self.asked = gamma
