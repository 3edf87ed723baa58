"""Windows with a memory: an example plugin, a batching that gives the model earlier tokens.

Use it by naming this file in an experiment's "plugins" (see experiments/transformer_xl.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/transformer_xl.py --set training.batching=transformer_xl
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from minigpt.contracts import Batch, Batching, Draw, Source, TokenRows
from minigpt.errors import DataError
from minigpt.registry import register


@register("batching", "transformer_xl")
class TransformerXL(Batching):
    """Rows that continue where they ended in the update before, with a memory (Dai et al. 2019, arXiv:1901.02860).

    Row b of update t begins at token m + (o + b n/B + t T) mod n, with m tokens of memory before it, and n places where a
    window of T tokens can begin. The seed chooses o. So B readers are spread over the text; each reads all of it in order,
    and begins again at the other end.

    The paper keeps the hidden vectors of the update before. Here the model reads the earlier tokens again, without
    gradients, so its memory is never older than its weights and a resumed run needs none. Positions count from the memory's
    first token, so learned ones do not reach far enough: use rope or biases.

    Args:
        memory: Number of earlier tokens. Where the text is too short for them, as many as fit.
    """

    def __init__(self, *, memory: Annotated[int, Field(ge=1, le=1 << 20)] = 128):
        self.memory = memory

    def batch(self, source: Source, draw: Draw) -> Batch:
        data = source.data
        if isinstance(data, TokenRows):
            raise DataError("batching: transformer_xl needs text, not the rows of a task")
        places = len(data.ids) - draw.block_size
        memory = min(self.memory, places - 1)
        places -= memory
        first = np.random.default_rng(draw.seed).integers(places)
        rows = np.arange(draw.batch_size) * places // draw.batch_size
        starts = (first + rows + draw.step * draw.block_size) % places
        drawn = data.at(starts + memory, draw.block_size)
        earlier = data.at(starts, memory).tokens if memory else None
        return Batch(drawn.tokens, drawn.targets, memory=earlier)
