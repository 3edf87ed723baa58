"""my_part: a synthetic task, as rows of ids with targets of their own.

`load` returns Splits. Here both are Sequences, three arrays [rows, time]: `tokens` that
the model reads, `targets` that it is to predict at each place, and `mask`, which says
what targets count. No row may be longer than the experiment's model.block_size. A
dataset may give text in place of them: `Splits.of_text(text, val_fraction)`; only then
is there something for `minigpt generate` to write. Keyword-only arguments are its JSON
parameters: annotate each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

holds it to this:

- both splits are there, of one kind, well-formed, and have no row in common;
- they are the same every time, in every process: random numbers come from a seed;
- every keyword argument changes something.

Edit first: `words`, and what `rows` makes of them.
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
    """Words of random symbols, to be written backwards: does a mixer find its way?

    A row is a word, a sign of its own, and the word reversed, which alone counts. A
    guess has a loss of log(symbols); what has learned the task comes near 0.

    Args:
        length: Symbols in a word.
        symbols: Different symbols.
        rows: Words drawn; those drawn twice count once.
        val_fraction: The share of them kept for validation.
        seed: Of the draw.
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
        rng.shuffle(words)  # unique has sorted them
        cut = min(max(1, round(len(words) * (1 - self.val_fraction))), len(words) - 1)
        train, val = self._sequences(words[:cut]), self._sequences(words[cut:])
        return Splits(train, val, vocab_size=self.symbols + 1)

    def _sequences(self, words: Int[np.ndarray, "rows length"]) -> Sequences:
        sign = np.full((len(words), 1), self.symbols)
        rows = np.concatenate((words, sign, words[:, ::-1]), axis=1)
        tokens, targets = rows[:, :-1], rows[:, 1:]
        counts = np.arange(tokens.shape[1]) >= self.length  # what follows the sign
        return Sequences(tokens, targets, np.broadcast_to(counts, tokens.shape).copy())
