"""How many of the validation rows are in the training rows too, as they are or shifted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from minigpt.components.dataset.overlap import MIX, combined
from minigpt.contracts import Sequences

_ROWS = 4096
"""Number of training rows whose windows are compared at once."""

_COUNTED_ROWS = 1 << 16
"""Number of training rows in which tokens and pairs of tokens are counted."""

_SHORT = 64
"""Rows of at most so many tokens are also compared by all that is left of them after a shift."""

_BEYOND_CHANCE = 10
"""Bits: a window of a row counts if it would occur in training by chance with a probability of at most 2^-10."""


def rows_in_both(train: Sequences, val: Sequences) -> list[int]:
    """Indices of the validation rows that are training rows too.

    What a causal model cannot use is ignored: targets that do not count, and everything after the last one that counts.
    """
    seen = {_row(train, index) for index in range(len(train.tokens)) if train.mask[index].any()}
    return [index for index in range(len(val.tokens)) if val.mask[index].any() and _row(val, index) in seen]


def _row(rows: Sequences, index: int) -> bytes:
    mask = rows.mask[index]
    used = slice(0, int(np.flatnonzero(mask)[-1]) + 1)
    counted = np.where(mask, rows.targets[index], -1)
    return b"".join(array[used].astype(np.int64).tobytes() for array in (rows.tokens[index], counted))


def shifted_share(train: Sequences, val: Sequences, certainty: float = 1.0) -> float:
    """The share of the validation rows' targets whose inputs training rows have too, at another place in the row.

    So it is with overlapping windows of one series that are split at random. An input is found with a window of at least a
    quarter of its row; in short rows also with what is left of a row after a shift of at most half. Windows that occur
    elsewhere by chance do not count: those that a walk from token to token, with the frequencies of pairs in training, would
    give with a probability above 2^-10. So the rows of a task in which each token follows from the last one are not shifted.

    Args:
        train: Training rows.
        val: Validation rows.
        certainty: How many times as many bits a window needs: rules of a task make tokens more probable than pairs show.
    """
    chance = _Chance.of(train, certainty)
    covered = _covered_by_windows(train, val, chance)
    if train.tokens.shape[1] == val.tokens.shape[1] <= _SHORT:
        covered |= _covered_by_shifts(train, val, chance)
    return float((covered & val.mask).sum() / max(1, val.mask.sum()))


def _covered_by_windows(train: Sequences, val: Sequences, chance: _Chance) -> Bool[np.ndarray, "rows time"]:
    width = 1 << max(0, (min(train.tokens.shape[1], val.tokens.shape[1]) // 2).bit_length() - 1)
    last = val.tokens.shape[1] - width
    places = np.unique([*range(0, last, width), last])
    windows = _row_hashes(val.tokens, width)[:, places]
    known = np.unique(windows)
    first, final = np.full(len(known), np.iinfo(np.int64).max), np.full(len(known), -1)
    for start in range(0, len(train.tokens), _ROWS):
        hashes = _row_hashes(train.tokens[start : start + _ROWS], width)
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        found = known[at] == hashes
        columns = np.broadcast_to(np.arange(hashes.shape[1]), hashes.shape)[found]
        np.minimum.at(first, at[found], columns)
        np.maximum.at(final, at[found], columns)
    index = np.searchsorted(known, windows)
    shifted = (final[index] >= 0) & ((first[index] != places) | (final[index] != places))
    covered = np.zeros(val.mask.shape, dtype=bool)
    for column, place in enumerate(places):
        part = slice(place, place + width)
        covered[shifted[:, column] & chance.excludes(val.tokens[:, part]), part] = True
    return covered


def _covered_by_shifts(train: Sequences, val: Sequences, chance: _Chance) -> Bool[np.ndarray, "rows time"]:
    time = val.tokens.shape[1]
    covered = np.zeros(val.mask.shape, dtype=bool)
    ids = [np.ascontiguousarray(rows.tokens, dtype=np.int64) for rows in (train, val)]
    for shift in range(1, time // 2 + 1):
        for of_train, of_val in ((slice(shift, None), slice(time - shift)), (slice(time - shift), slice(shift, None))):
            known = {row.tobytes() for row in ids[0][:, of_train]}
            found = np.array([row.tobytes() in known for row in ids[1][:, of_val]])
            covered[found & chance.excludes(val.tokens[:, of_val]), of_val] = True
    return covered


def joined_by(train: Sequences, val: Sequences) -> int:
    """Tokens that end the last training row and begin the first validation row, if they do not do so by chance."""
    one, other = train.tokens[-1], val.tokens[:1]
    chance = _Chance.of(train)
    lengths = range(min(len(one), other.shape[1]), 0, -1)
    length = next((length for length in lengths if np.array_equal(one[-length:], other[0, :length])), 0)
    return length if length and chance.excludes(other[:, :length])[0] else 0


def _row_hashes(tokens: Int[np.ndarray, "rows time"], width: int) -> UInt64[np.ndarray, "rows windows"]:
    """A hash of each window of each row."""
    return combined((tokens.astype(np.uint64) + MIX) * MIX, width)


@dataclass(frozen=True)
class _Chance:
    """How probable tokens are, by their frequencies and by those of pairs in training.

    Attributes:
        needed: Bits that a window needs, not to occur by chance anywhere in training.
        ids: The ids in training, sorted.
        bits: For each of them how improbable it is, in bits; for another one, last, as if it had occurred once.
        pairs: The pairs in training, as numbers, sorted.
        bits_of_pairs: For each of them how improbable its second token is after its first one.
    """

    needed: float
    ids: Int[np.ndarray, " ids"]
    bits: Float[np.ndarray, " ids_and_one"]
    pairs: Int[np.ndarray, " pairs"]
    bits_of_pairs: Float[np.ndarray, " pairs_and_one"]

    @classmethod
    def of(cls, train: Sequences, certainty: float = 1.0) -> _Chance:
        """Count in training rows."""
        tokens = train.tokens[:_COUNTED_ROWS]
        ids, counts = np.unique(tokens, return_counts=True)
        bits = np.log2(tokens.size) - np.log2(np.append(counts, 1))
        at = np.searchsorted(ids, tokens)
        pairs, times = np.unique(at[:, :-1] * len(ids) + at[:, 1:], return_counts=True)
        begun = np.bincount(pairs // len(ids), times, minlength=len(ids))
        of_pairs = np.log2(begun[pairs // len(ids)]) - np.log2(times)
        needed = certainty * (np.log2(train.tokens.size) + _BEYOND_CHANCE)
        return cls(needed, ids, bits, pairs, np.append(of_pairs, bits[-1]))

    def excludes(self, windows: Int[np.ndarray, "rows width"]) -> Bool[np.ndarray, " rows"]:
        """Whether each window is too improbable to occur in training by chance."""
        at = _index(self.ids, windows)
        first, second, size = at[:, :-1], at[:, 1:], len(self.ids)
        both = np.where((first < size) & (second < size), first * size + second, -1)
        bits: Float[np.ndarray, " rows"] = self.bits[at[:, 0]] + self.bits_of_pairs[_index(self.pairs, both)].sum(1)
        return bits >= self.needed


def _index(known: Int[np.ndarray, " known"], values: Int[np.ndarray, "*axes"]) -> Int[np.ndarray, "*axes"]:
    """The index of each value among the known ones, sorted; their number for another value."""
    if not len(known):
        return np.zeros(values.shape, dtype=np.int64)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[at] == values, at, len(known))
