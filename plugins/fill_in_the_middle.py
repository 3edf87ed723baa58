r"""Fill in the middle: an example plugin, a batching that rearranges text.

Use it by naming this file in an experiment's "plugins" (see experiments/fill_in_the_middle.json). A trained model completes

    minigpt generate runs/fill_in_the_middle/seed-1337 $'\x01beginning\x02end\x03'
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field

from minigpt.contracts import Batch, Batching, Draw, Source, TokenRows
from minigpt.errors import DataError, TokenizerError
from minigpt.registry import register

_ADVICE = "name others, or use tokenizer byte"


@register("batching", "fill_in_the_middle")
class FillInTheMiddle(Batching):
    """Windows cut at two random tokens, with the middle part moved to the end (Bavarian et al. 2022, arXiv:2207.14255).

        psm: <P> prefix <S> suffix <M> middle      spm: <P> <S> suffix <M> prefix middle

    The model learns to continue, as always, and after <M> to write what is missing. The vocabulary has no tokens for the
    three marks, so three characters must stand for them that the text does not use. All targets count.

    Args:
        rate: Share of the windows that are rearranged. The paper finds no harm to ordinary text up to 0.9.
        order: Which of the paper's two orders: the prefix first, or the suffix.
        marks: The characters for <P>, <S> and <M>. Each must be one token of the tokenizer, such as a byte.
    """

    keeps_order = False

    def __init__(
        self,
        *,
        rate: Annotated[float, Field(ge=0, le=1)] = 0.5,
        order: Literal["psm", "spm"] = "psm",
        marks: Annotated[str, Field(min_length=3, max_length=3, examples=["<|>"])] = "\x01\x02\x03",
    ):
        if len(set(marks)) < 3:
            raise ValueError("marks must be three different characters")
        self.rate, self.order, self.marks = rate, order, marks

    def batch(self, source: Source, draw: Draw) -> Batch:
        data, length = source.data, draw.block_size + 1
        if isinstance(data, TokenRows) or source.tokenizer is None:
            raise DataError("batching: fill_in_the_middle needs text, not the rows of a task")
        try:
            marks = np.concatenate([source.tokenizer.encode(mark) for mark in self.marks])
        except TokenizerError as error:
            raise DataError(f"batching: marks of fill_in_the_middle: {error}; {_ADVICE}") from error
        if len(marks) != 3:
            raise DataError(f"batching: marks of fill_in_the_middle must be one token each; {_ADVICE}")
        rng = draw.rng()
        starts = rng.integers(0, len(data.ids) - draw.block_size, draw.batch_size)
        drawn = data.at(starts, draw.block_size)
        rows = torch.cat((drawn.tokens, drawn.targets[:, -1:]), 1)
        for row in np.flatnonzero(rng.random(draw.batch_size) < self.rate) if length > 3 else ():
            window = rows[row, : length - 3].cpu().numpy()  # the marks need three places
            rows[row] = torch.from_numpy(self._rearranged(window, marks, rng))
        return Batch(rows[:, :-1], rows[:, 1:])

    def _rearranged(
        self, window: Int[np.ndarray, " tokens"], marks: Int[np.ndarray, " 3"], rng: np.random.Generator
    ) -> Int[np.ndarray, " longer"]:
        prefix, middle, suffix = np.split(window, np.sort(rng.integers(0, len(window) + 1, 2)))
        p, s, m = marks[:, None]
        parts = (p, prefix, s, suffix, m, middle) if self.order == "psm" else (p, s, suffix, m, prefix, middle)
        return np.concatenate(parts)
