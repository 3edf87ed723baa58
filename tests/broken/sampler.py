"""Broken samplers."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Sampler
from tests.broken import broken, correct


@dataclass
class Drawn:
    """A memory: the drawn tokens."""

    tokens: list[int] = field(default_factory=list)


@correct("sampler")
class Tiring(Sampler):
    """The softmax, in which each drawn token is less likely from then on.

    Args:
        fatigue: What is subtracted from the logits of drawn tokens.
    """

    def __init__(self, *, fatigue: Annotated[float, Field(ge=0)] = 0.5):
        self.fatigue = fatigue

    def new_memory(self) -> Drawn:
        return Drawn()

    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        logits = logits.double().clone()
        logits[memory.tokens] -= self.fatigue
        return logits.softmax(-1)

    def observe(self, token: int, probabilities: Tensor, memory: Drawn) -> None:
        if token not in memory.tokens:
            memory.tokens.append(token)


@broken("sampler", "distribution", "the precision of the logits is kept, so fp32 sums to 1 only roughly")
class KeepsPrecision(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        return super().probabilities(logits, ids, memory).to(logits.dtype)


@broken("sampler", "distribution", "exp overflows, because the largest logit is not subtracted first")
class Overflows(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        weights = logits.double().exp()
        return weights / weights.sum()


@broken("sampler", "distribution", "tokens are removed, and the rest is not divided by its sum")
class NotNormalised(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        probabilities = super().probabilities(logits, ids, memory)
        return probabilities.masked_fill(probabilities < 0.01 * probabilities.max(), 0.0)


@broken("sampler", "distribution", "the entropy of a token with probability 0 is 0 times minus infinity")
class EntropyOfNothing(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        p = super().probabilities(logits, ids, memory)
        return (-(p * p.log())).softmax(-1)


@broken("sampler", "distribution", "logits are returned, some of them negative")
class ReturnsLogits(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        return logits.double() / logits.double().abs().sum()


@broken("sampler", "function", "noise from torch's generator is added, to break ties")
class BreaksTies(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        return super().probabilities(logits + 1e-3 * torch.rand(len(logits)), ids, memory)


@broken("sampler", "function", "calls are counted, so a second look is another step")
class CountsCalls(Tiring):
    calls = 0

    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        self.calls += 1
        return super().probabilities(logits / self.calls, ids, memory)


@broken("sampler", "function", "probabilities changes the memory, which only observe may do")
class LooksAndRemembers(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        found = super().probabilities(logits, ids, memory)
        memory.tokens.append(int(found.argmax()))
        return found


@broken("sampler", "function", "the temperature depends on the clock")
class ByTheClock(Tiring):
    def __init__(self, *, fatigue: Annotated[float, Field(ge=0)] = 0.5):
        super().__init__(fatigue=fatigue)
        self.start = time.time()

    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        return super().probabilities(logits / (1 + time.time() - self.start), ids, memory)


@broken("sampler", "function", "each instance draws its own temperature")
class DrawsItsTemperature(Tiring):
    def __init__(self, *, fatigue: Annotated[float, Field(ge=0)] = 0.5):
        super().__init__(fatigue=fatigue)
        self.temperature = random.uniform(0.5, 1)

    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        return super().probabilities(logits / self.temperature, ids, memory)


@broken("sampler", "separate", "the last token is kept in self, and the next text finds it")
class KeepsTheLastToken(Tiring):
    last: int | None = None

    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        return super().probabilities(logits, ids, Drawn([] if self.last is None else [self.last]))

    def observe(self, token: int, probabilities: Tensor, memory: Drawn) -> None:
        self.last = token


@broken("sampler", "separate", "the memory is made once, so all texts share it")
class SharesItsMemory(Tiring):
    def __init__(self, *, fatigue: Annotated[float, Field(ge=0)] = 0.5):
        super().__init__(fatigue=fatigue)
        self.drawn = Drawn()

    def new_memory(self) -> Drawn:
        return self.drawn


@broken("sampler", "separate", "a text begins when its prompt is seen, so a second text in between is taken for the first")
class RecognisesTheText(Tiring):
    ids: Sequence[int] = ()

    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        if len(ids) < len(self.ids):
            self.ids = ()
        new = list(ids[len(self.ids) :])
        self.ids = list(ids)
        return super().probabilities(logits, ids, Drawn(sorted({*new[-1:], *self.ids[:1]})))


class NotCopied(Drawn):
    def __deepcopy__(self, memo: Any) -> NotCopied:
        return self


@broken("sampler", "memory", "a copy of the memory is the memory itself")
class CopiesNothing(Tiring):
    def new_memory(self) -> Drawn:
        return NotCopied()


class Locked(Drawn):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@broken("sampler", "memory", "the memory contains a lock, which cannot be copied")
class CannotBeCopied(Tiring):
    def new_memory(self) -> Drawn:
        return Locked()


@broken("sampler", "memory", "the memory is a key into a table in self, so a copy has the same entry")
class MemoryIsAKey(Tiring):
    def __init__(self, *, fatigue: Annotated[float, Field(ge=0)] = 0.5):
        super().__init__(fatigue=fatigue)
        self.table: list[Drawn] = []

    def new_memory(self) -> int:  # type: ignore[override]
        self.table.append(Drawn())
        return len(self.table) - 1

    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: int) -> Tensor:  # type: ignore[override]
        return super().probabilities(logits, ids, self.table[memory])

    def observe(self, token: int, probabilities: Tensor, memory: int) -> None:  # type: ignore[override]
        super().observe(token, probabilities, self.table[memory])


@broken("sampler", "arguments", "logits are changed in place: the next sampler, or the next look, sees the changed ones")
class ChangesLogits(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        logits[memory.tokens] -= self.fatigue
        return logits.double().softmax(-1)


@broken("sampler", "arguments", "double() copies fp32 logits, but not those of a model in float64")
class ChangesWideLogits(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        logits = logits.double()
        logits[memory.tokens] -= self.fatigue
        return logits.softmax(-1)


@broken("sampler", "arguments", "a mark is appended to the ids of the text")
class ChangesIds(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        if isinstance(ids, list):
            ids.append(0)
        return super().probabilities(logits, ids, memory)


@broken("sampler", "arguments", "observe sets the drawn token's probability to 0")
class ChangesProbabilities(Tiring):
    def observe(self, token: int, probabilities: Tensor, memory: Drawn) -> None:
        super().observe(token, probabilities, memory)
        probabilities[token] = 0


@broken("sampler", "knobs", "the parameter is accepted, but a constant is subtracted")
class FatigueNotUsed(Tiring):
    def probabilities(self, logits: Tensor, ids: Sequence[int], memory: Drawn) -> Tensor:
        logits = logits.double().clone()
        logits[memory.tokens] -= 0.5
        return logits.softmax(-1)
