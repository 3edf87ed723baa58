"""my_part: a synthetic task, as rows of ids with their own targets.

`load` returns Splits. Here both are Sequences, three arrays [rows, time]: `tokens` for
the model to read, `targets` to predict at each position, and `mask`, which says which
targets count. No row may be longer than the experiment's model.block_size. A dataset
may return text instead: `Splits.of_text(text, val_fraction)`; only then can
`minigpt generate` write text. Keyword-only arguments are its JSON parameters: annotate
each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- both splits exist, are of one kind, well-formed, and have no row in common;
- they are the same every time, in every process: random numbers come from a seed;
- every keyword argument changes something.

Edit first: `words`, and the rows that are made from them.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from jaxtyping import Int
from pydantic import Field

from minigpt.contracts import Dataset, Sequences, Splits
from minigpt.registry import register


@register("dataset", "my_part")
class MyPart(Dataset):
    """Words of random symbols to write backwards: can a mixer find the right position?

    A row is a word, a separator, and the word reversed. Only the last part counts. A
    guess has a loss of log(symbols); a model that learned the task gets close to 0.

    Args:
        length: Symbols in a word.
        symbols: Number of different symbols.
        rows: Words drawn; a word drawn twice counts once.
        val_fraction: Share of the words for validation.
        seed: Seed of the draw.
    """

    def __init__(
        self,
        *,
        length: Annotated[int, Field(ge=2, le=4096)] = 8,
        symbols: Annotated[int, Field(ge=2, le=4096)] = 10,
        rows: Annotated[int, Field(ge=100, le=10**7)] = 10_000,
        val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1,
        seed: Annotated[int, Field(ge=0)] = 0,
    ):
        self.length, self.symbols, self.rows = length, symbols, rows
        self.val_fraction, self.seed = val_fraction, seed

    def load(self) -> Splits:
        rng = np.random.default_rng(self.seed)
        words = rng.integers(self.symbols, size=(self.rows, self.length))
        words = np.unique(words, axis=0)  # no word in both splits
        rng.shuffle(words)  # unique sorts them
        cut = min(max(1, round(len(words) * (1 - self.val_fraction))), len(words) - 1)
        train, val = self._sequences(words[:cut]), self._sequences(words[cut:])
        return Splits(train, val, vocab_size=self.symbols + 1)

    def _sequences(self, words: Int[np.ndarray, "rows length"]) -> Sequences:
        sign = np.full((len(words), 1), self.symbols)
        rows = np.concatenate((words, sign, words[:, ::-1]), axis=1)
        tokens, targets = rows[:, :-1], rows[:, 1:]
        counts = np.arange(tokens.shape[1]) >= self.length  # from the separator on
        return Sequences(tokens, targets, np.broadcast_to(counts, tokens.shape).copy())
