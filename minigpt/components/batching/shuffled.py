"""Each epoch once through the data."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from minigpt.contracts import Batch, Batching, Draw, Source, TokenRows
from minigpt.registry import register


@register("batching", "shuffled")
class Shuffled(Batching):
    """All windows of the text, or all rows of a task, once in each epoch, in a new random order.

    The order is a function of the seed and the epoch, and an update takes the next batch_size windows. So it repeats nothing
    before the data are used up, unlike `windows`, and still needs no position when it resumes.

    Args:
        offset: Cut the windows of each epoch at another place, up to a window further on; what is left over, less than two
            windows, is not used. If false, the windows are the same in each epoch.
    """

    def __init__(self, *, offset: bool = True):
        self.offset = offset

    def batch(self, source: Source, draw: Draw) -> Batch:
        data, length = source.data, draw.block_size
        if isinstance(data, TokenRows):
            return data.at(_places(draw, len(data.tokens), 1, 1))
        n_targets = len(data.ids) - 1
        count = max(1, (n_targets - self.offset * (length - 1)) // length)
        room = min(length, n_targets - count * length + 1) if self.offset else 1
        return data.at(_places(draw, count, length, room), length)


def _places(draw: Draw, count: int, length: int, room: int) -> Int[np.ndarray, " batch"]:
    """Where the windows of a draw begin, of `count` windows in an epoch that begin at one of `room` tokens."""
    numbers = draw.step * draw.batch_size + np.arange(draw.batch_size)
    places = np.empty_like(numbers)
    for epoch in np.unique(numbers // count):
        rng = np.random.default_rng([draw.seed, epoch])
        offset, order = rng.integers(room), rng.permutation(count)
        of_epoch = numbers // count == epoch
        places[of_epoch] = offset + length * order[numbers[of_epoch] % count]
    return places
