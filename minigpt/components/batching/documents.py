"""Windows in which documents do not see each other."""

from __future__ import annotations

import torch

from minigpt.contracts import Batch, Batching, Draw, Source, TokenRows
from minigpt.errors import DataError
from minigpt.registry import register


@register("batching", "documents")
class Documents(Batching):
    """Windows that start anywhere, in which no token attends to another document, and none predicts its first token.

    This is the masking of packed documents in Llama 3 (arXiv:2407.21783, 3.2) and Zhao et al. 2024 (arXiv:2402.13991): the
    documents are one stream, which windows cut at any place. Validation does not change.

    Args:
        restart_positions: Count positions from each document's first token in the window (Krell et al. 2021,
            arXiv:2107.02027), instead of the window's first token. Relative positions are the same in both cases.
    """

    uses_documents = True

    def __init__(self, *, restart_positions: bool = False):
        self.restart_positions = restart_positions

    def batch(self, source: Source, draw: Draw) -> Batch:
        data = source.data
        if isinstance(data, TokenRows) or data.starts is None:
            raise DataError("batching: documents needs text of which it is known where documents begin")
        first = torch.from_numpy(draw.rng().integers(0, len(data.ids) - draw.block_size, draw.batch_size))
        first = first.to(data.ids.device)
        drawn = data.at(first, draw.block_size)
        places = first[:, None] + torch.arange(draw.block_size + 1, device=first.device)
        document = torch.searchsorted(data.starts, places, right=True)
        inside = document[:, 1:] == document[:, :-1]
        segments, positions = document[:, :-1] - document[:, :1], None
        if self.restart_positions:
            begin = torch.maximum(data.starts[document - 1], first[:, None])
            positions = (places - begin)[:, :-1]
        return Batch(drawn.tokens, drawn.targets, inside, segments, positions=positions)
