"""my_part: which tokens an update sees.

`batch(source, draw)` returns the Batch of one update. `source.data` is a TokenStream (one
row of `ids`, and `starts` of documents if `uses_documents` is True) or the TokenRows of a
synthetic task; `at` of both makes a batch from places. `draw` says which batch: its `seed`
and `step`, `progress` from 0 to 1, the experiment's `batch_size` and `block_size`. A batch
may also have a mask (which targets count), segments (a token attends only to its own) and
memory (earlier tokens). Keyword-only arguments are its JSON parameters: annotate each one,
give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- a batch depends on the arguments alone, because a resumed run begins in the middle:
  random numbers come from `draw.rng()`, and nothing is counted or kept;
- sizes, dtypes and ids are right, and at least one target counts;
- each target that counts follows its input in the data, or `keeps_order` is False;
- other seeds and other updates see other tokens;
- every keyword argument changes something.

Edit first: `starts`, where the windows of an update begin.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from jaxtyping import Int
from pydantic import Field

from minigpt.contracts import Batch, Batching, Draw, Source, TokenRows
from minigpt.registry import register


@register("batching", "my_part")
class MyPart(Batching):
    """Windows from a growing part of the text, which begins at its start: a curriculum.

    It needs data in a useful order, such as easy texts first.

    Args:
        first: Share of the data that the first update draws from.
        over: Share of the updates after which all data are drawn from.
    """

    def __init__(
        self,
        *,
        first: Annotated[float, Field(gt=0, le=1)] = 0.2,
        over: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ):
        self.first, self.over = first, over

    def batch(self, source: Source, draw: Draw) -> Batch:
        data = source.data
        if isinstance(data, TokenRows):
            return data.at(self.starts(draw, len(data.tokens)))
        return data.at(self.starts(draw, len(data.ids) - draw.block_size), draw.block_size)

    def starts(self, draw: Draw, places: int) -> Int[np.ndarray, " batch"]:
        """The places of a batch, of so many in the data."""
        share = self.first + (1 - self.first) * min(1.0, draw.progress / self.over)
        return draw.rng().integers(0, max(1, int(share * places)), draw.batch_size)
