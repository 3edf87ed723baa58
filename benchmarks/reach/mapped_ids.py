"""Rows of a file of token ids, which is not read into memory: a dataset."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from minigpt.contracts import Dataset, Sequences, Splits
from minigpt.errors import DataError
from minigpt.registry import register
from minigpt.registry.paths import UserPath


@register("dataset", "mapped_ids")
class MappedIds(Dataset):
    """A file of token ids, such as nanoGPT's train.bin, mapped into memory and cut into rows; the last ones validate.

    Args:
        path: Ids as numbers one after another, without a header.
        dtype: Type of the numbers, little-endian.
        length: Tokens of a row.
        vocab_size: Number of token ids.
        val_fraction: Share of the rows for validation.
        alphabet: Text on which the experiment's tokenizer is fitted, if it made the ids; then text can be generated.
    """

    def __init__(
        self,
        *,
        path: UserPath,
        dtype: Literal["uint16", "int32", "uint8", "uint32"] = "uint16",
        length: Annotated[int, Field(gt=0, le=1 << 20)] = 128,
        vocab_size: Annotated[int, Field(gt=0, le=1 << 32)] = 1 << 16,
        val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1,
        alphabet: str | None = None,
    ):
        self.path, self.dtype, self.length = path, np.dtype(dtype).newbyteorder("<"), length
        self.vocab_size, self.val_fraction, self.alphabet = vocab_size, val_fraction, alphabet

    def load(self) -> Splits:
        try:
            ids = np.memmap(self.path, self.dtype, mode="c")  # "c": torch wants memory that can be written
        except (OSError, ValueError) as error:
            raise DataError(f"data.path: {self.path}: {error}") from error
        rows = (len(ids) - 1) // self.length
        train = rows - max(1, round(rows * self.val_fraction))
        if train < 1:
            raise DataError(f"data.path: {self.path} has {len(ids):,} ids, too few for two rows of {self.length}")
        tokens, targets = (ids[at : at + rows * self.length].reshape(rows, self.length) for at in (0, 1))
        every = np.ones((rows, self.length), dtype=bool)
        halves = (slice(train), slice(train, rows))
        splits = (Sequences(tokens[half], targets[half], every[half]) for half in halves)
        return Splits(*splits, self.vocab_size, alphabet=self.alphabet)
