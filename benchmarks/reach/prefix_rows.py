"""Windows in which the loss begins after a prefix: a batching."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from minigpt.components.batching.windows import Windows
from minigpt.contracts import Batch, Draw, Source, TokenRows
from minigpt.errors import DataError
from minigpt.registry import register


@register("batching", "prefix_rows")
class PrefixRows(Windows):
    """Windows with a prefix of random length that is read but not predicted, as prompts in instruction tuning.

    The prefix language modelling objective of T5 (Raffel et al. 2019, arXiv:1910.10683, section 3.3.1), here with causal
    attention in the prefix too.

    Args:
        most: Longest prefix, as a share of the window. At least one target counts.
    """

    def __init__(self, *, most: Annotated[float, Field(gt=0, le=1)] = 0.5):
        self.most = most

    def batch(self, source: Source, draw: Draw) -> Batch:
        if isinstance(source.data, TokenRows):
            raise DataError("batching: prefix_rows needs text; the rows of a task have their own masks")
        drawn = super().batch(source, draw)
        longest = min(int(self.most * draw.block_size), draw.block_size - 1)
        lengths = draw.rng().integers(0, longest + 1, (draw.batch_size, 1))
        places = torch.arange(draw.block_size, device=drawn.tokens.device)
        return Batch(drawn.tokens, drawn.targets, places >= torch.from_numpy(lengths).to(places.device))
