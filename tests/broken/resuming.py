"""Parts, objectives and batchings that remember what no checkpoint has, or that a checkpoint cannot have."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.contracts import Batch, Context, Dims, Draw, Layer, Prediction, Source, State, TokenRows
from tests.broken import broken
from tests.broken.attention import Plain
from tests.broken.batching import Anywhere
from tests.broken.embedding import Smeared
from tests.broken.ffn import Experts, Perceptron
from tests.broken.norm import Gain
from tests.broken.objective import Focal, TokenBefore


@broken("ffn", "resumable", "a gate opens after 70 forward passes in train mode, which are counted in a Python number")
class CountsPasses(Perceptron):
    passes = 0

    def hidden(self, x: Tensor) -> Tensor:
        self.passes += self.training
        return super().hidden(x) * (1.0 if self.passes > 70 else 0.5)


@broken("ffn", "resumable", "the last loads are in a deque, and the router is balanced with them after each update")
class LoadsInADeque(Experts):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("bias", torch.zeros(4))
        self.loads: deque[Tensor] = deque(maxlen=4)

    def chosen(self, scores: Tensor) -> Tensor:
        chosen = super().chosen(scores + self.bias)
        if self.training:
            self.loads.append(chosen.sum((0, 1)))
        return chosen

    def after_step(self) -> None:
        if self.loads:
            load = torch.stack(tuple(self.loads)).sum(0)
            self.bias += 0.5 * (load.float().mean() - load).sign()


@broken("ffn", "resumable", "every hundredth update clips the weights, and the count is in a class attribute")
class ClipsNowAndThen(Perceptron):
    counts: ClassVar[dict[int, int]] = {}

    def after_step(self) -> None:
        self.counts[id(self)] = self.counts.get(id(self), 0) + 1
        if self.counts[id(self)] % 100 == 0:
            self.into.weight.clamp_(-0.01, 0.01)


@broken("ffn", "resumable", "passes in eval mode are counted too, and the noise in training decreases with the count")
class EvaluationsCount(Perceptron):
    passes: Tensor

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("passes", torch.zeros(()))

    def hidden(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().hidden(x) * (1 + 1 / self.passes if self.training else 1.0)


@broken(
    "ffn", "resumable", "a running mean is registered as a buffer in the first pass, so a fresh module has no place for it"
)
class RegistersLate(Perceptron):
    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        if self.training:
            if not hasattr(self, "mean"):
                self.register_buffer("mean", torch.zeros(hidden.shape[-1], device=x.device))
            self.mean.lerp_(hidden.detach().float().mean((0, 1)), 0.1)
        return hidden


@broken("ffn", "resumable", "the buffer of past loads grows with every update")
class Grows(Perceptron):
    past: Tensor

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("past", torch.zeros(1))

    def after_step(self) -> None:
        self.past = torch.cat((self.past, self.into.weight.mean()[None]))


@broken("ffn", "resumable", "a count is an integer when it is built, and a floating-point number after the first pass")
class ChangesType(Perceptron):
    updates: Tensor

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def hidden(self, x: Tensor) -> Tensor:
        if self.training:
            self.updates = self.updates + 0.5
        return super().hidden(x)


@broken("ffn", "resumable", "the product of both maps is kept at the first pass in eval mode, and never computed again")
class KeepsTheProduct(Perceptron):
    product: Tensor | None = None

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        if self.training:
            return self.out(self.into(x))
        if self.product is None:
            self.product = (self.out.weight @ self.into.weight).detach()
        return F.linear(x, self.product.to(x.dtype))


@broken("ffn", "resumable", "the extra state is a number, which a checkpoint file cannot hold")
class ExtraNumber(Perceptron):
    def get_extra_state(self) -> Any:
        return 3

    def set_extra_state(self, state: Any) -> None:
        pass


@broken("embedding", "resumable", "eval mode multiplies the table by the share, and train mode divides by it again")
class FoldsInEval(Smeared):
    def train(self, mode: bool = True) -> Self:
        if mode != self.training:
            with torch.no_grad():
                self.table.weight.mul_(0.5 if mode else 2.0)
        return super().train(mode)

    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        return super().vectors(tokens, ctx) * (2.0 if self.training else 1.0)


@broken("attention", "resumable", "the scores' dropout has a private generator, which begins anew when training resumes")
class PrivateDropout(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.generator = torch.Generator().manual_seed(0)

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        weights = super().weights(scores, seen)
        if not self.training or scores.device.type != "cpu":
            return weights
        return weights * (torch.rand(weights.shape, generator=self.generator) > 0.1)


@broken("norm", "resumable", "gradients are divided by a running size, which a backward hook keeps in self")
class ScalesGradients(Gain):
    size = 1.0

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if y.requires_grad:
            y.register_hook(self.scaled)
        return y * (1.0 if self.size < 1.5 or not self.training else 0.9)

    def scaled(self, gradient: Tensor) -> Tensor:
        self.size = 0.9 * self.size + 0.1 * float(gradient.abs().max())
        return gradient


@broken("objective", "resumable", "the further term fades with the updates, which are counted in a Python number")
class FadesByItself(TokenBefore):
    updates = 0

    def further(self, prediction: Prediction, each: Tensor) -> Tensor:
        return super().further(prediction, each) / (1 + self.updates)

    def after_step(self) -> None:
        self.updates += 1


@broken("objective", "resumable", "gamma follows a running accuracy, in a buffer that is not saved")
class GammaFollows(Focal):
    accuracy: Tensor

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__(dims, layer)
        self.register_buffer("accuracy", torch.zeros(()), persistent=False)
        self.register_buffer("latest", torch.zeros(()), persistent=False)

    def mean(self, prediction: Prediction, each: Tensor) -> Tensor:
        self.latest = prediction.mean((prediction.logits.argmax(-1) == prediction.targets).float()).detach()
        return prediction.mean(each) * (1 + self.accuracy)

    def after_step(self) -> None:
        self.accuracy = 0.9 * self.accuracy + 0.1 * self.latest


@broken("objective", "resumable", "a teacher, the mean of earlier weights, is in a list, so that it has no gradients")
class TeacherInAList(Focal):
    def __init__(self, dims: Dims, layer: Layer):
        super().__init__(dims, layer)
        self.bias = nn.Parameter(torch.zeros(dims.vocab_size))
        self.teacher = [torch.zeros(dims.vocab_size)]

    def normalised(self, logits: Tensor) -> Tensor:
        return super().normalised(logits + self.bias + self.teacher[0].to(logits))

    def after_step(self) -> None:
        self.teacher[0] = 0.5 * self.teacher[0] + self.bias.detach()


@broken("batching", "function", "after 100 draws an instance takes windows from the second half of the text")
class CurriculumOfDraws(Anywhere):
    drawn = 0

    def batch(self, source: Source, draw: Draw) -> Batch:
        self.drawn += 1
        if self.drawn > 100 and not isinstance(source.data, TokenRows):
            half = len(source.data.ids) // 2
            return source.data.at(self.numbers(draw, half - draw.block_size) + half, draw.block_size)
        return super().batch(source, draw)


@broken("batching", "function", "rows that an instance has drawn are not drawn again, until all were drawn")
class WithoutReplacement(Anywhere):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, Any] = {}

    def numbers(self, draw: Draw, below: int) -> Any:
        if draw.step not in self.seen:
            taken = len(self.seen) * draw.batch_size
            self.seen[draw.step] = (taken + super().numbers(draw, below)) % below
        return self.seen[draw.step]


@broken("batching", "function", "the windows of an update begin where those of the update before ended")
class ContinuesItself(Anywhere):
    place = 0

    def numbers(self, draw: Draw, below: int) -> Any:
        self.place = self.place + draw.block_size if draw.step else 0
        return (super().numbers(draw, below) * 0 + self.place) % below
