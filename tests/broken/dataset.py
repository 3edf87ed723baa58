"""Broken datasets."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from minigpt.contracts import Dataset, Sequences, Splits
from tests.broken import broken, correct

VOCAB, ROWS, LENGTH = 16, 80, 12


@correct("dataset")
class Copying(Dataset):
    """Rows of random ids, repeated after a separator.

    Args:
        seed: Seed of the rows.
        rows: Number of rows.
    """

    def __init__(self, *, seed: Annotated[int, Field(ge=0)] = 0, rows: Annotated[int, Field(ge=10, le=200)] = ROWS):
        self.seed, self.rows = seed, rows

    def load(self) -> Splits:
        halves = self.halves()
        tokens = np.concatenate((halves, np.full((len(halves), 1), VOCAB - 1), halves), 1)
        cut = len(tokens) * 9 // 10
        return Splits(self.sequences(tokens[:cut]), self.sequences(tokens[cut:]), VOCAB)

    def halves(self) -> np.ndarray:
        """Return each row's first half, all different."""
        generator = np.random.default_rng(self.seed)
        drawn = np.unique(generator.integers(0, VOCAB - 1, (2 * self.rows, LENGTH)), axis=0)
        return generator.permutation(drawn)[: self.rows]

    def sequences(self, tokens: np.ndarray) -> Sequences:
        """Return inputs, next tokens as targets, and a mask of the predictable targets."""
        targets = np.roll(tokens, -1, axis=1)
        mask = np.zeros(tokens.shape, dtype=bool)
        mask[:, LENGTH:-1] = True
        return Sequences(tokens, targets, mask)


@correct("dataset")
class Counting(Dataset):
    """Text with one number in words in each line."""

    def __init__(self) -> None:
        pass

    def load(self) -> Splits:
        return Splits.of_text("\n".join(self.lines()), 0.1)

    def lines(self) -> list[str]:
        """Return the lines in order."""
        digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        return [" ".join(digits[int(digit)] for digit in str(number)) for number in range(500)]


@broken("dataset", "splits", "validation is a part of the training text")
class ValidationInTraining(Counting):
    def load(self) -> Splits:
        text = "\n".join(self.lines())
        return Splits(text, text[-len(text) // 10 :])


@broken("dataset", "splits", "validation lines are drawn from all lines, so each is also a training line")
class LinesInBoth(Counting):
    def load(self) -> Splits:
        lines = self.lines()
        return Splits("\n".join(lines), "\n".join(random.Random(1).sample(lines, 60)))


@broken("dataset", "splits", "validation rows are drawn from the training rows")
class RowsInBoth(Copying):
    def load(self) -> Splits:
        splits = super().load()
        assert isinstance(splits.train, Sequences)
        drawn = np.random.default_rng(self.seed).choice(len(splits.train.tokens), 10)
        val = Sequences(splits.train.tokens[drawn], splits.train.targets[drawn], splits.train.mask[drawn])
        return Splits(splits.train, val, VOCAB)


@broken("dataset", "splits", "validation rows are training rows with other targets where none counts")
class RowsInBothExceptMasked(Copying):
    def load(self) -> Splits:
        splits = super().load()
        assert isinstance(splits.train, Sequences)
        tokens, targets, mask = (each[:10] for each in (splits.train.tokens, splits.train.targets, splits.train.mask))
        return Splits(splits.train, Sequences(tokens, np.where(mask, targets, (targets + 1) % VOCAB), mask), VOCAB)


@broken("dataset", "splits", "validation rows are training rows with more padding")
class RowsInBothExceptPadding(Copying):
    def load(self) -> Splits:
        splits = super().load()
        assert isinstance(splits.train, Sequences)
        first = [np.pad(each[:10], ((0, 0), (0, 3))) for each in vars(splits.train).values()]
        return Splits(splits.train, Sequences(*first), VOCAB)


@broken("dataset", "splits", "rows are windows that begin at every place of a series, and are split at random")
class ShiftedRows(Copying):
    def load(self) -> Splits:
        generator = np.random.default_rng(self.seed)
        series = generator.integers(0, VOCAB, 1000)
        rows = generator.permutation(np.lib.stride_tricks.sliding_window_view(series, 33))
        train, val = (Sequences(part[:, :-1], part[:, 1:], part[:, 1:] >= 0) for part in (rows[100:], rows[:100]))
        return Splits(train, val, VOCAB)


@broken("dataset", "splits", "a cut is rounded up, so validation is empty")
class EmptyValidation(Counting):
    def load(self) -> Splits:
        return Splits("\n".join(self.lines()), "")


@broken("dataset", "splits", "documents of the validation text are counted too, beyond the end of the training text")
class DocumentsOfTheWholeText(Counting):
    def load(self) -> Splits:
        splits = super().load()
        lines = self.lines()
        return replace(splits, documents=tuple(100 * number for number in range(len(lines))))


@broken("dataset", "splits", "documents of the validation text are counted from the beginning of the training text")
class ValidationDocumentsOfTheWholeText(Counting):
    def load(self) -> Splits:
        splits = super().load()
        return replace(splits, val_documents=(0, len(splits.train)))


@broken("dataset", "repeatable", "documents of the validation text are drawn anew at each load")
class OtherValidationDocumentsEachTime(Counting):
    def load(self) -> Splits:
        return replace(super().load(), val_documents=(0, random.randrange(1, 100)))


@broken("dataset", "repeatable", "documents are drawn anew at each load")
class OtherDocumentsEachTime(Counting):
    def load(self) -> Splits:
        return replace(super().load(), documents=(0, random.randrange(1, 100)))


@broken("dataset", "splits", "targets are one token shorter than the inputs")
class TargetsTooShort(Copying):
    def sequences(self, tokens: np.ndarray) -> Sequences:
        whole = super().sequences(tokens)
        return Sequences(whole.tokens, whole.targets[:, :-1], whole.mask)


@broken("dataset", "splits", "the separator's id equals vocab_size, but the largest allowed id is one less")
class IdBeyondTheVocabulary(Copying):
    def load(self) -> Splits:
        splits = super().load()
        return Splits(splits.train, splits.val, VOCAB - 1)


@broken("dataset", "splits", "vocab_size is missing, and rows have no tokenizer that could define it")
class NoVocabulary(Copying):
    def load(self) -> Splits:
        splits = super().load()
        return Splits(splits.train, splits.val)


@broken("dataset", "splits", "one split is rows and the other is text")
class RowsAndText(Copying):
    def load(self) -> Splits:
        splits = super().load()
        return Splits(splits.train, "validation", VOCAB)


@broken("dataset", "splits", "no target counts: the mask is all false")
class NothingCounts(Copying):
    def sequences(self, tokens: np.ndarray) -> Sequences:
        whole = super().sequences(tokens)
        return Sequences(whole.tokens, whole.targets, np.zeros_like(whole.mask))


@broken("dataset", "repeatable", "rows are drawn without a seed")
class UnseededRows(Copying):
    def halves(self) -> np.ndarray:
        return np.random.default_rng().integers(0, VOCAB - 1, (self.rows, LENGTH))


@broken("dataset", "repeatable", "lines are shuffled by Python's random, which is not seeded")
class ShuffledLines(Counting):
    def lines(self) -> list[str]:
        return random.sample(super().lines(), 500)


@broken("dataset", "repeatable", "a set makes lines unique, and its order differs in each process")
class SetOrder(Counting):
    def lines(self) -> list[str]:
        return list(set(super().lines()))


@broken("dataset", "repeatable", "the generator is created once, so a second load draws other numbers")
class GeneratorIsNotReset(Copying):
    def __init__(self, *, seed: Annotated[int, Field(ge=0)] = 0, rows: Annotated[int, Field(ge=10, le=200)] = ROWS):
        super().__init__(seed=seed, rows=rows)
        self.generator = np.random.default_rng(seed)

    def halves(self) -> np.ndarray:
        return self.generator.permutation(super().halves())


@broken("dataset", "knobs", "a seed is accepted, but a constant seed is used")
class SeedNotUsed(Copying):
    def halves(self) -> np.ndarray:
        generator = np.random.default_rng(1337)
        return np.unique(generator.integers(0, VOCAB - 1, (2 * self.rows, LENGTH)), axis=0)[: self.rows]
