"""Multi-query associative recall: an example plugin, a synthetic task.

Use it by naming this file in an experiment's "plugins" (see experiments/associative_recall.json for a model that learns it):

    minigpt run experiments/associative_recall.json --set model.attention=gla --name recall-gla
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from jaxtyping import Int
from pydantic import Field

from minigpt.contracts import Dataset, Sequences, Splits
from minigpt.registry import register

_DRAWN_AT_ONCE = 1024  # rows


@register("dataset", "associative_recall")
class AssociativeRecall(Dataset):
    """Keys with their values, then some keys again: predict their values (Arora et al. 2023, arXiv:2312.04927).

        k_1 v_1 k_2 v_2 ... k_n v_n q_1 ... q_m,  with targets only at the queries: the value after the same key

    The task separates attention from mixers with a state of fixed size. The keys of a row differ, and so do its queries;
    values may repeat. Ids below n_keys are keys, the others are values. A guess costs ln(n_values) nats, and a guess among
    the values of the row about ln(n_pairs).

    Args:
        n_pairs: Pairs in a row.
        n_queries: Queries in a row, at most n_pairs.
        n_keys: Number of different keys.
        n_values: Number of different values.
        rows: Rows for training. No two rows of either split have the same pairs in the same order.
        val_rows: Rows for validation.
        seed: Seed of the rows.
    """

    def __init__(
        self,
        *,
        n_pairs: Annotated[int, Field(ge=1, le=2048)] = 8,
        n_queries: Annotated[int, Field(ge=1, le=2048)] = 8,
        n_keys: Annotated[int, Field(ge=1, le=4096)] = 32,
        n_values: Annotated[int, Field(ge=2, le=4096)] = 32,
        rows: Annotated[int, Field(ge=1, le=10**6)] = 20_000,
        val_rows: Annotated[int, Field(ge=1, le=10**6)] = 500,
        seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
    ):
        if n_pairs > n_keys:
            raise ValueError(f"n_pairs {n_pairs} is more than n_keys {n_keys}: the keys of a row must differ")
        if n_queries > n_pairs:
            raise ValueError(f"n_queries {n_queries} is more than n_pairs {n_pairs}: a row queries each key at most once")
        possible = math.perm(n_keys, n_pairs) * n_values**n_pairs
        if 2 * (rows + val_rows) > possible:
            raise ValueError(
                f"{rows} rows and {val_rows} val_rows are more than half of the {possible} possible rows: "
                "increase n_keys, n_values or n_pairs, or use fewer rows"
            )
        self.n_pairs, self.n_queries, self.n_keys, self.n_values = n_pairs, n_queries, n_keys, n_values
        self.rows, self.val_rows, self.seed = rows, val_rows, seed

    def load(self) -> Splits:
        rng = np.random.Generator(np.random.Philox(self.seed))
        pairs = self._pairs(rng, self.rows + self.val_rows)
        asked = rng.permuted(np.tile(np.arange(self.n_pairs), (len(pairs), 1)), axis=1)[:, : self.n_queries]
        queried = np.take_along_axis(pairs, asked[:, :, None], axis=1)
        tokens = np.concatenate((pairs.reshape(len(pairs), -1), queried[..., 0]), axis=1)
        targets = np.zeros_like(tokens)
        targets[:, -self.n_queries :] = queried[..., 1]
        mask = np.zeros(tokens.shape, dtype=bool)
        mask[:, -self.n_queries :] = True
        train, val = (
            Sequences(tokens[part], targets[part], mask[part]) for part in (slice(self.rows), slice(self.rows, None))
        )
        return Splits(train, val, self.n_keys + self.n_values)

    def _pairs(self, rng: np.random.Generator, rows: int) -> Int[np.ndarray, "rows n_pairs 2"]:
        """Keys and values of distinct rows."""
        found: dict[bytes, Int[np.ndarray, "n_pairs 2"]] = {}
        while len(found) < rows:
            keys = rng.permuted(np.tile(np.arange(self.n_keys), (_DRAWN_AT_ONCE, 1)), axis=1)[:, : self.n_pairs]
            values = self.n_keys + rng.integers(0, self.n_values, keys.shape)
            found |= {row.tobytes(): row for row in np.stack((keys, values), axis=-1)}
        return np.stack(list(found.values())[:rows])
