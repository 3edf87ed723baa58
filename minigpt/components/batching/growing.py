"""Sequences and batches that grow while training."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from minigpt.components.batching.windows import Windows
from minigpt.contracts import Batch, Batching, BatchShape, Draw, Source, TokenRows
from minigpt.errors import DataError
from minigpt.registry import register

Share = Annotated[float, Field(gt=0, le=1)]


@register("batching", "growing")
class Growing(Batching):
    """Windows as in `windows`, at first shorter or fewer: they grow linearly up to block_size and batch_size.

    Short sequences first are cheaper, and steadier at a high learning rate (Li et al. 2021, arXiv:2108.06084). A batch that
    grows is GPT-3's (arXiv:2005.14165). Validation always has windows of block_size.

    Args:
        context: Length of the first sequences, as a share of block_size.
        batch: Sequences in the first updates, as a share of batch_size.
        over: Share of the updates after which both have grown.
        multiple: Lengths are multiples of this number of tokens, or block_size.
        equal_tokens: Draw as many more sequences as they are shorter, so that only `batch` changes the tokens of an update.
    """

    def __init__(
        self,
        *,
        context: Share = 0.25,
        batch: Share = 1.0,
        over: Share = 0.5,
        multiple: Annotated[int, Field(gt=0, le=1 << 17, examples=[1])] = 8,
        equal_tokens: bool = False,
    ):
        self.context, self.share, self.over = context, batch, over
        self.multiple, self.equal_tokens = multiple, equal_tokens

    def batch(self, source: Source, draw: Draw) -> Batch:
        if isinstance(source.data, TokenRows) and self.context < 1:
            raise DataError("batching: growing cannot shorten the rows of a task; set its context to 1.0")
        shape = self.shape(draw)
        return Windows().batch(source, replace(draw, batch_size=shape.sequences, block_size=shape.length))

    def shape(self, draw: Draw) -> BatchShape:
        grown = min(1.0, draw.progress / self.over)
        sequences = max(1, int(draw.batch_size * (self.share + (1 - self.share) * grown)))
        length = draw.block_size
        if grown < 1 and self.context < 1:
            wanted = draw.block_size * (self.context + (1 - self.context) * grown)
            length = min(length, max(1, int(wanted / self.multiple)) * self.multiple)
        return BatchShape(sequences * draw.block_size // length if self.equal_tokens else sequences, length)
