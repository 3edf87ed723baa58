"""Broken initialisations."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn

from minigpt.contracts import Dims, Factors, Init, NamedParameter, ResidualLinear
from tests.broken import broken, correct


@correct("init")
class FanIn(Init):
    """Weights with the deviation gain / sqrt(inputs), smaller in maps into the stream; each step is a method.

    Args:
        gain: The deviation of an output for inputs of size 1.
    """

    def __init__(self, dims: Dims, *, gain: Annotated[float, Field(gt=0)] = 0.5):
        self.gain, self.dims = gain, dims

    def draw(self, model: nn.Module) -> None:
        for module in self.visited(model):
            self.draw_weight(module, self.std(module))
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def visited(self, model: nn.Module) -> Iterator[nn.Linear | nn.Embedding]:
        """Yield the modules to draw."""
        yield from (module for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding))

    def std(self, module: nn.Linear | nn.Embedding) -> float:
        """Return the deviation of a module's weight."""
        inside = self.gain / math.sqrt(module.weight.shape[1])
        return inside / math.sqrt(2 * self.dims.n_layers) if isinstance(module, ResidualLinear) else inside

    def draw_weight(self, module: nn.Linear | nn.Embedding, std: float) -> None:
        """Draw one weight."""
        nn.init.normal_(module.weight, std=std)


@correct("init")
class WideFanIn(FanIn):
    """The same at any width: Adam's learning rate inside the blocks is divided by it, and so are the logits."""

    transfers = frozenset({"width"})

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.width = dims.d_model / 64
        self.logit_factor = 1 / self.width

    def std(self, module: nn.Linear | nn.Embedding) -> float:
        is_table = isinstance(module, nn.Embedding) or module.weight.shape[0] == self.dims.vocab_size
        return 0.02 if is_table else super().std(module)

    def factors(self, parameter: NamedParameter) -> Factors:
        return Factors(lr=1 / self.width) if parameter.role == "matrix" else Factors()


@broken("init", "weights", "embeddings are forgotten, so they keep what torch gave them")
class ForgetsEmbeddings(FanIn):
    def visited(self, model: nn.Module) -> Iterator[nn.Linear | nn.Embedding]:
        yield from (module for module in super().visited(model) if isinstance(module, nn.Linear))


@broken("init", "weights", "type(module) is nn.Linear leaves out the subclasses, such as maps into the stream")
class ForgetsSubclasses(FanIn):
    def visited(self, model: nn.Module) -> Iterator[nn.Linear | nn.Embedding]:
        yield from (module for module in super().visited(model) if type(module) in (nn.Linear, nn.Embedding))


@broken("init", "weights", "a fixed seed is set, so all seeds of an experiment begin alike")
class SetsASeed(FanIn):
    def draw(self, model: nn.Module) -> None:
        torch.default_generator.manual_seed(0)
        super().draw(model)


@broken("init", "weights", "numbers are drawn with numpy, which the experiment's seed does not reach")
class DrawsWithNumpy(FanIn):
    def draw_weight(self, module: nn.Linear | nn.Embedding, std: float) -> None:
        drawn = std * np.random.default_rng().standard_normal(tuple(module.weight.shape))
        nn.init.zeros_(module.weight)
        module.weight.data += torch.from_numpy(drawn).to(module.weight)


@broken("init", "weights", "the logarithm of a residual depth of 1 divides by 0 in a model of one or two layers")
class DividesByDepth(FanIn):
    def std(self, module: nn.Linear | nn.Embedding) -> float:
        return super().std(module) / math.log(self.dims.n_layers / 2) if self.dims.n_layers > 2 else math.inf


@broken("init", "order", "each further module that is visited gets smaller weights, as a guess at its depth")
class CountsModules(FanIn):
    def draw(self, model: nn.Module) -> None:
        self.seen = 0
        super().draw(model)

    def std(self, module: nn.Linear | nn.Embedding) -> float:
        self.seen += 1
        return super().std(module) / math.sqrt(self.seen)


@broken("init", "order", "the first map that is visited is taken for the embedding")
class FirstIsTheTable(FanIn):
    def draw(self, model: nn.Module) -> None:
        super().draw(model)
        first = next(self.visited(model))
        nn.init.normal_(first.weight, std=1.0)


@broken("init", "order", "the last map that is visited is taken for the head and set to zero")
class LastIsTheHead(FanIn):
    def draw(self, model: nn.Module) -> None:
        super().draw(model)
        *_, last = self.visited(model)
        nn.init.zeros_(last.weight)


@broken("init", "order", "weights are scaled until all together have a length, so what was scaled before matters")
class ScalesToALength(FanIn):
    def draw(self, model: nn.Module) -> None:
        super().draw(model)
        total = 0.0
        for module in self.visited(model):
            total += float(module.weight.detach().square().sum())
            module.weight.data *= math.sqrt(100 / total)


@broken("init", "factors", "biases and gains get a learning rate of 0")
class FreezesVectors(FanIn):
    def factors(self, parameter: NamedParameter) -> Factors:
        return Factors(lr=0.0 if parameter.role == "vector" else 1.0)


@broken("init", "factors", "the residual factor is negative in deep models")
class NegativeFactor(FanIn):
    def __init__(self, dims: Dims, *, gain: Annotated[float, Field(gt=0)] = 0.5):
        super().__init__(dims, gain=gain)
        self.residual_factor = 1 - dims.n_layers / 2


@broken("init", "factors", "factors are drawn by each instance, so a resumed run has others")
class DrawsFactors(FanIn):
    def __init__(self, dims: Dims, *, gain: Annotated[float, Field(gt=0)] = 0.5):
        super().__init__(dims, gain=gain)
        self.factor = random.uniform(0.9, 1.1)

    def factors(self, parameter: NamedParameter) -> Factors:
        return Factors(lr=self.factor)


@broken("init", "factors", "each call gives a smaller learning rate")
class CountsCalls(FanIn):
    calls = 0

    def factors(self, parameter: NamedParameter) -> Factors:
        self.calls += 1
        return Factors(lr=1 / self.calls)


@broken("init", "transfer", "width is promised, but the learning rate inside the blocks is the same at any width")
class ForgetsTheLearningRate(WideFanIn):
    def factors(self, parameter: NamedParameter) -> Factors:
        return Factors()


@broken("init", "transfer", "width is promised, but the factor on the logits is forgotten")
class ForgetsTheLogits(WideFanIn):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.logit_factor = 1.0


@broken("init", "transfer", "depth is promised too, but outputs of sub-layers are added as they are")
class ForgetsTheDepth(WideFanIn):
    transfers = frozenset({"width", "depth"})

    def std(self, module: nn.Linear | nn.Embedding) -> float:
        return super().std(module) * (math.sqrt(2 * self.dims.n_layers) if isinstance(module, ResidualLinear) else 1)


@broken("init", "knobs", "the gain is accepted, but a constant is used")
class IgnoresTheGain(FanIn):
    def __init__(self, dims: Dims, *, gain: Annotated[float, Field(gt=0)] = 0.5):
        super().__init__(dims)
