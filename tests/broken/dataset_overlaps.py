"""Broken datasets whose splits have a little in common, or whose targets are shifted."""

from __future__ import annotations

import random

import numpy as np

from minigpt.contracts import Sequences, Splits
from tests.broken import broken
from tests.broken.dataset import LENGTH, VOCAB, Copying, Counting


class _Series(Copying):
    """Rows that are windows of one random series."""

    def series(self) -> np.ndarray:
        """Return the whole series."""
        return np.random.default_rng(self.seed).integers(0, VOCAB, 30 * self.rows)

    def windows(self, series: np.ndarray, step: int) -> Sequences:
        """Return windows with a step between them, and next tokens as targets."""
        rows = np.lib.stride_tricks.sliding_window_view(series, 25)[::step]
        return Sequences(rows[:, :-1], rows[:, 1:], rows[:, 1:] >= 0)


class _Words(Counting):
    """Random words."""

    def text(self) -> str:
        """Return a text that does not repeat itself."""
        words = "\n".join(super().lines()).split()
        return " ".join(random.Random(0).choices([*words, *(word[::-1] for word in words)], k=4000))


@broken("dataset", "splits", "training ends one window of 64 characters after validation begins")
class OneWindowInBoth(_Words):
    def load(self) -> Splits:
        text = self.text()
        cut = len(text) * 9 // 10
        return Splits(text[: cut + 64], text[cut:])


@broken("dataset", "splits", "validation is cut out of the middle, and the parts around it have its edges")
class EdgesInBoth(_Words):
    def load(self) -> Splits:
        text = self.text()
        start, end = len(text) // 2, len(text) * 6 // 10
        return Splits(text[: start + 100] + text[end - 100 :], text[start:end])


@broken("dataset", "splits", "one window of validation is also appended to training")
class OnePassageInBoth(_Words):
    def load(self) -> Splits:
        text = self.text()
        cut = len(text) * 9 // 10
        return Splits(text[:cut] + "\n" + text[cut + 300 : cut + 500] + "\n", text[cut:])


@broken("dataset", "splits", "a quarter of the validation lines are training lines, too")
class SomeLinesInBoth(_Words):
    def load(self) -> Splits:
        words = self.text().split()
        lines = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
        return Splits("\n".join(lines[40:]), "\n".join(lines[:30] + lines[-10:]))


@broken("dataset", "splits", "windows overlap by half, and the rows are divided instead of the series")
class HalfARowInBoth(_Series):
    def load(self) -> Splits:
        rows = self.windows(self.series(), 12)
        train, val = (Sequences(*(each[part] for each in vars(rows).values())) for part in (slice(180), slice(180, None)))
        return Splits(train, val, VOCAB)


@broken("dataset", "splits", "validation rows are training rows that are rotated by one token")
class RotatedRows(Copying):
    def load(self) -> Splits:
        splits = super().load()
        assert isinstance(splits.train, Sequences)
        rows = (np.roll(each[:10], 1, axis=1) for each in vars(splits.train).values())
        return Splits(splits.train, Sequences(*rows), VOCAB)


@broken("dataset", "splits", "a few validation rows are training rows that begin two tokens later")
class SomeRowsShifted(_Series):
    def load(self) -> Splits:
        series = self.series()
        cut = len(series) * 9 // 10
        train, val = self.windows(series[:cut], 25), self.windows(series[cut:], 25)
        later = self.windows(series[2:200], 25)
        val = Sequences(*(np.concatenate(pair) for pair in zip(vars(val).values(), vars(later).values(), strict=True)))
        return Splits(train, val, VOCAB)


@broken("dataset", "splits", "targets are not shifted, so each is its own input")
class OwnInputs(Copying):
    def sequences(self, tokens: np.ndarray) -> Sequences:
        whole = super().sequences(tokens)
        return Sequences(whole.tokens, whole.tokens, whole.mask)


@broken("dataset", "splits", "targets are shifted twice, so each is two steps ahead")
class TwoAhead(Copying):
    def sequences(self, tokens: np.ndarray) -> Sequences:
        whole = super().sequences(tokens)
        return Sequences(
            whole.tokens, np.roll(tokens, -2, axis=1), whole.mask & (np.arange(tokens.shape[1]) < 2 * LENGTH - 1)
        )


@broken("dataset", "splits", "inputs are shifted instead of targets, so each target is its own input")
class InputsShifted(_Series):
    def load(self) -> Splits:
        series = self.series()
        cut = len(series) * 9 // 10
        train, val = self.windows(series[:cut], 25), self.windows(series[cut:], 25)
        return Splits(Sequences(train.targets, train.targets, train.mask), val, VOCAB)
