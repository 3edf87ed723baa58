"""Tokenizers, datasets, optimizers and schedules: a sound one of each, and many with one mistake."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from minigpt.check import Result, check, component_target
from minigpt.components.optimizer.sgd import SGD
from minigpt.components.tokenizer.byte import ByteTokenizer
from minigpt.components.tokenizer.char import CharTokenizer
from minigpt.contracts import Dataset, NamedParameter, Optimizer, Schedule, Sequences, Splits

PROPERTIES = {
    "tokenizer": ("lossless", "ids", "byte_counts", "tolerance", "fitting"),
    "dataset": ("splits", "repeatable"),
    "batching": ("function", "batches", "order", "draws"),
    "optimizer": ("groups", "finite", "resumable", "step"),
    "schedule": ("function", "finite"),
    "sampler": ("distribution", "function", "separate", "memory", "arguments"),
}


def results_of(family: str, name: str) -> list[Result]:
    report = check(component_target(family, name), only=PROPERTIES[family])
    assert [result.property for result in report.results] == list(PROPERTIES[family])
    return list(report.results)


class TabsBecomeBlanks(ByteTokenizer):
    def encode(self, text: str) -> np.ndarray:
        return super().encode(text.replace("\t", " "))


class RefusesDigits(CharTokenizer):
    def fit(self, text: str) -> None:
        super().fit("".join(character for character in text if not character.isdigit()))


class NothingIsAFloat(CharTokenizer):
    def encode(self, text: str) -> np.ndarray:
        return np.array(super().encode(text).tolist())


class IdForTheEnd(CharTokenizer):
    @property
    def vocab_size(self) -> int:
        return super().vocab_size + 1


class InTheOrderOfASet(CharTokenizer):
    def fit(self, text: str) -> None:
        self._order = "".join(set(text))
        super().fit(text)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "order": list(map(ord, self._order))}

    def from_json(self, learned: dict[str, Any]) -> None:
        self._order = "".join(map(chr, learned["order"]))
        super().from_json(learned)


class KeepsASurrogate(CharTokenizer):
    def to_json(self) -> dict[str, Any]:
        return {"text": "".join(map(chr, super().to_json()["code_points"]))}

    def from_json(self, learned: dict[str, Any]) -> None:
        super().from_json({"code_points": list(map(ord, learned["text"]))})


class HalfIsRestored(CharTokenizer):
    def from_json(self, learned: dict[str, Any]) -> None:
        super().from_json({"code_points": learned["code_points"][::2]})


class Squares(Dataset):
    def __init__(self) -> None:
        pass

    def load(self) -> Splits:
        return Splits.of_text("".join(f"{n} squared: {n * n}.\n" for n in self.numbers()), 0.1)

    def numbers(self) -> list[int]:
        return list(range(1000))


class OverlappingSquares(Squares):
    def load(self) -> Splits:
        splits = super().load()
        assert isinstance(splits.train, str)
        assert isinstance(splits.val, str)
        return Splits(splits.train + splits.val, splits.val)


class SquaresInTime(Squares):
    def numbers(self) -> list[int]:
        return random.Random(int(time.time() // 1000)).sample(range(1000), 1000)


class SquaresInTheOrderOfASet(Squares):
    def numbers(self) -> list[int]:
        return list(map(int, set(map(str, range(1000)))))


class Reversal(Dataset):
    """Rows of ids followed by the same ids reversed.

    Args:
        ignored: The id at places where a target does not count.
    """

    def __init__(self, *, ignored: Annotated[int, Field(ge=-100, le=8)] = 0):
        self.ignored = ignored

    def load(self) -> Splits:
        rows = np.random.default_rng(0).permuted(np.tile(np.arange(8), (300, 1)), axis=1)
        rows = np.unique(rows, axis=0)
        tokens = np.concatenate((rows, rows[:, ::-1]), axis=1)
        mask = np.zeros(tokens.shape, dtype=bool)
        mask[:, 7:-1] = True
        targets = np.where(mask, np.roll(tokens, -1, 1), self.ignored)
        train, val = (Sequences(tokens[part], targets[part], mask[part]) for part in (slice(200), slice(200, None)))
        return Splits(train, val, 8)


class IgnoresLikeTorch(Reversal):
    def __init__(self, *, ignored: Annotated[int, Field(ge=-100, le=8)] = -100):
        super().__init__(ignored=ignored)


class StacksForgotten(SGD):
    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return super().build([p for p in parameters if p.tensor.ndim <= 2])


class Rule(torch.optim.Optimizer):
    """Gradient descent; subclasses make a mistake in `direction`."""

    def __init__(self, tensors: list[torch.Tensor]):
        super().__init__(tensors, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * self.direction(p, p.grad))

    def direction(self, p: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class Plain(Optimizer):
    rule: type[Rule] = Rule

    def __init__(self) -> None:
        pass

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return self.rule([p.tensor for p in parameters])


class DividesBySize(Plain):
    class rule(Rule):
        def direction(self, p: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
            return gradient / gradient.abs().amax()


class CountsBesideTheState(Plain):
    class rule(Rule):
        calls = 0

        def direction(self, p: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return gradient / self.calls


class Transposes(Plain):
    """Its state is correct, but a file restores it in another memory layout, which changes rounding."""

    class rule(Rule):
        def direction(self, p: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
            if p.ndim != 2:
                return gradient
            basis = self.state[p].setdefault("basis", torch.linalg.qr(gradient.mT @ gradient).Q)
            return gradient @ basis


class KeepsAGenerator(Plain):
    class rule(Rule):
        def direction(self, p: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
            self.state[p]["generator"] = torch.Generator()
            return gradient


class NoiseForAll(Plain):
    class rule(Rule):
        def direction(self, p: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
            return gradient + torch.randn(p.shape)


class DecaysAnyway(Plain):
    class rule(Rule):
        def direction(self, p: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
            p.mul_(0.999)
            return gradient


class Hyperbola(Schedule):
    def __init__(self, max_iters: int):
        self.max_iters = max_iters

    def factor(self, step: int) -> float:
        return 1 / (step + 1)


class NumbersOfNumpys(Hyperbola):
    def factor(self, step: int) -> float:
        return np.float32(1) / np.float32(step + 1)  # type: ignore[return-value]


class EndsTooEarly(Hyperbola):
    def factor(self, step: int) -> float:
        return 1 - step / 20


class FallsWithEveryCall(Hyperbola):
    now = 1.0

    def factor(self, step: int) -> float:
        self.now *= 0.99
        return self.now


class LengthOfZero(Hyperbola):
    def __init__(self, max_iters: int):
        super().__init__(max_iters)
        self.share = 1 / (max_iters - 1)


MISTAKES = [
    (TabsBecomeBlanks, "lossless", "'\\t' (U+0009) at "),
    (RefusesDigits, "lossless", "encode refuses the text that it was fitted on: character '"),
    (NothingIsAFloat, "ids", "the ids of '' are float64"),
    (IdForTheEnd, "tolerance", "raise IndexError: index "),
    (InTheOrderOfASet, "fitting", "in another process, the same text gives another result: learned.order["),
    (KeepsASurrogate, "fitting", "to_json contains a lone surrogate, '\\ud"),
    (HalfIsRestored, "fitting", "from_json restores another vocabulary: code_points has 2 items, then 1"),
    (OverlappingSquares, "splits", "100% of the validation text, in windows of 64 characters, is also training text"),
    (IgnoresLikeTorch, "splits", "targets of the training rows contain -100"),
    (SquaresInTime, "repeatable", "when another instance loads it, train differs from character "),
    (SquaresInTheOrderOfASet, "repeatable", "in another process the splits differ"),
    (StacksForgotten, "groups", "blocks.1.ffn.into is in no group"),
    (DividesBySize, "finite", "is not finite after steps with gradients of size "),
    (CountsBesideTheState, "resumable", "resumed from its state, its steps differ: "),
    (Transposes, "resumable", "resumed from its state, its steps differ: "),
    (KeepsAGenerator, "resumable", "its state_dict cannot be saved: an optimizer's state may not hold a Generator"),
    (NoiseForAll, "step", "it draws or seeds torch's global random numbers"),
    (DecaysAnyway, "step", "steps, a step with a learning rate of 0 changes "),
    (NumbersOfNumpys, "finite", "the factor of step 0 of 1 is "),
    (EndsTooEarly, "finite", "the factor of step 21 of "),
    (LengthOfZero, "finite", "raises ZeroDivisionError: "),
    (FallsWithEveryCall, "function", "the factor of step 0 of 1 is 0.99, but 0.9801 when it is called again"),
]
