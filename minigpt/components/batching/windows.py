"""Windows that start anywhere."""

from __future__ import annotations

from minigpt.contracts import Batch, Batching, Draw, Source, TokenRows
from minigpt.registry import register


@register("batching", "windows")
class Windows(Batching):
    """Windows that start at any token of the text, drawn with replacement; rows of a synthetic task likewise.

    A window may contain the end of one document and the beginning of the next.
    """

    def __init__(self) -> None:
        pass

    def batch(self, source: Source, draw: Draw) -> Batch:
        data, rng = source.data, draw.rng()
        if isinstance(data, TokenRows):
            return data.at(rng.integers(0, len(data.tokens), draw.batch_size))
        return data.at(rng.integers(0, len(data.ids) - draw.block_size, draw.batch_size), draw.block_size)
