"""How much of the validation data is in the training data too, where a model could memorize it."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt64

from minigpt.contracts import Sequences

NEARLY_ALL = 0.9
"""With at least this share in common, one text counts as a copy of a part of the other."""

_WIDTHS = (64, 16)
"""Characters of a window: the first width that the validation text is long enough for. Shorter texts match by chance."""

_ENOUGH = 4096
"""Approximate number of windows of the validation text that are searched for, regardless of its length."""

_FEWEST_LINES = 16
"""With fewer different lines of validation text, lines are not compared."""

_COUNTED_LINES = 1 << 18
"""Approximate number of lines of the training text that are counted, to estimate how often lines repeat by chance."""

_ROWS = 4096
"""Number of training rows whose windows are compared at once."""

_BEYOND_CHANCE = 10
"""Bits: a window of a row counts if it would occur in training by chance with a probability of at most 2^-10."""

_LINE = re.compile(r"[^\n\r]+")

_CHUNK = 1 << 16  # characters; the arrays of a chunk stay in the processor's cache
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication by it is invertible


@dataclass(frozen=True)
class Overlap:
    """What two texts have in common.

    Attributes:
        shared: The share of the second text's pieces that the first one has too.
        distinct: The share of different pieces among the second text's pieces: small if the text repeats itself.
        pieces: The unit of comparison: `lines` or `windows of 64 characters`.
    """

    shared: float
    distinct: float
    pieces: str

    @property
    def is_copy(self) -> bool:
        """Whether nearly all of the second text is in the first one, and it does not only repeat itself."""
        return self.shared >= NEARLY_ALL and self.distinct >= 0.5


def text_overlap(train: str, val: str) -> Overlap:
    """Measure how much of the validation text is in the training text, in windows or in lines.

    The larger share counts. Windows find a passage with other line breaks; lines are found in any order. White space is
    ignored, and accents are composed (NFC). Time is linear in both texts, and memory does not grow with the training text.
    """
    return max(_window_overlap(train, val), _line_overlap(train, val), key=lambda overlap: (overlap.is_copy, overlap.shared))


def _window_overlap(train: str, val: str) -> Overlap:
    """Overlap in windows.

    A hash of the content selects the same windows in both texts (Schleimer et al. 2003).
    """
    length = sum(map(len, _without_spaces(val)))
    width = next((width for width in _WIDTHS if length >= width), None)
    if width is None:
        return Overlap(0.0, 1.0, f"windows of {length} characters")
    bits = max(0, length // _ENOUGH).bit_length()
    looked_for = _chosen(val, width, bits)
    while not len(looked_for):  # the text has few different windows
        bits //= 2
        looked_for = _chosen(val, width, bits)
    known = np.unique(looked_for)
    in_both = np.zeros(len(known), dtype=bool)
    for hashes in _chosen_by_chunk(train, width, bits):
        places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        in_both[places[known[places] == hashes]] = True
    in_training = in_both[np.searchsorted(known, looked_for)]
    return Overlap(float(in_training.mean()), len(known) / len(looked_for), f"windows of {width} characters")


def _line_overlap(train: str, val: str) -> Overlap:
    """Overlap in whole lines, weighted by their length, minus the overlap expected by chance.

    A short line, such as a speaker's name, occurs in any text of the same kind. The share of lines of each length that occur
    twice in the training text estimates how many validation lines occur there by chance.
    """
    lines = Counter(_lines(val))
    if len(lines) < _FEWEST_LINES:
        return Overlap(0.0, 1.0, "lines")
    in_both = {line for line in _lines(train) if line in lines}
    chance = _repeated_by_length(train)
    total = sum(len(line) * times for line, times in lines.items())
    shared = sum(len(line) * times for line, times in lines.items() if line in in_both and len(line) in chance)
    expected = sum(len(line) * times * chance.get(len(line), 0.0) for line, times in lines.items())
    beyond = (shared - expected) / (total - expected) if total > expected else 0.0
    return Overlap(max(0.0, beyond), len(lines) / lines.total(), "lines")


def _repeated_by_length(text: str) -> dict[int, float]:
    """For each length, the share of lines that occur more than once.

    It is measured on a sample of lines, selected by a hash of their content. If most different lines occur equally often,
    say twice, then the whole text is there twice, and only lines that occur more often repeat by chance.
    """
    bits = (text.count("\n") // _COUNTED_LINES).bit_length()
    counts = Counter(line for line in _lines(text) if zlib.crc32(line.encode("utf-8", "surrogatepass")) >> (32 - bits) == 0)
    seen, repeated = Counter[int](), Counter[int]()
    ((copies, alike),) = Counter(counts.values()).most_common(1) or [(1, 0)]
    copies = copies if 2 * alike > len(counts) else 1
    for line, times in counts.items():
        seen[len(line)] += times
        repeated[len(line)] += times if times > copies else 0
    return {length: repeated[length] / number for length, number in seen.items()}


def _lines(text: str) -> Iterator[str]:
    """The lines of a text, composed (NFC) and without white space; no empty ones."""
    for match in _LINE.finditer(text):
        if line := unicodedata.normalize("NFC", "".join(match[0].split())):
            yield line


def _without_spaces(text: str) -> Iterator[str]:
    """A text in composed form (NFC) without its white space, in chunks."""
    for start in range(0, len(text), _CHUNK):
        yield "".join(unicodedata.normalize("NFC", text[start : start + _CHUNK]).split())


def _chosen(text: str, width: int, bits: int) -> UInt64[np.ndarray, " windows"]:
    return np.concatenate([*_chosen_by_chunk(text, width, bits)])


def _chosen_by_chunk(text: str, width: int, bits: int) -> Iterator[UInt64[np.ndarray, " windows"]]:
    """Hashes of the windows, chunk by chunk; only hashes whose first `bits` bits are zero."""
    before = ""
    for chunk in _without_spaces(text):
        hashes = _window_hashes(before + chunk, width)
        before = (before + chunk)[-(width - 1) :]
        yield hashes[hashes >> np.uint64(64 - bits) == 0] if bits else hashes


def _window_hashes(text: str, width: int) -> UInt64[np.ndarray, " windows"]:
    """A hash of each window, by doubling: two adjacent hashes combine into a hash of twice the width."""
    if len(text) < width:
        return np.zeros(0, dtype=np.uint64)
    return _combined(
        np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64) + _MIX, width
    )


def _combined(hashes: UInt64[np.ndarray, "*rows symbols"], width: int) -> UInt64[np.ndarray, "*rows windows"]:
    """Hashes of windows of this width, a power of two, from hashes of single symbols."""
    span = 1
    while span < width:
        hashes = hashes * (_MIX + np.uint64(2 * span))
        hashes ^= hashes >> np.uint64(29)
        hashes = hashes[..., :-span] + hashes[..., span:] * _MIX
        span *= 2
    return hashes * _MIX


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


def shifted_share(train: Sequences, val: Sequences) -> float:
    """The share of the validation rows' targets that training rows have too, at another place in the row.

    So it is with overlapping windows of one series that are split at random. A target is found with a window of at least a
    quarter of its row, tokens and counted targets. Windows that occur elsewhere by chance do not count: those whose tokens,
    drawn independently with their frequencies, would give the same window with a probability above 2^-10.
    """
    width = 1 << max(0, (min(train.tokens.shape[1], val.tokens.shape[1]) // 2).bit_length() - 1)
    last = val.tokens.shape[1] - width
    places = np.unique([*range(0, last, width), last])
    windows = _row_hashes(val, width)[:, places]
    known = np.unique(windows)
    first, final = np.full(len(known), np.iinfo(np.int64).max), np.full(len(known), -1)
    for start in range(0, len(train.tokens), _ROWS):
        part = slice(start, start + _ROWS)
        hashes = _row_hashes(Sequences(train.tokens[part], train.targets[part], train.mask[part]), width)
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        found = known[at] == hashes
        columns = np.broadcast_to(np.arange(hashes.shape[1]), hashes.shape)[found]
        np.minimum.at(first, at[found], columns)
        np.maximum.at(final, at[found], columns)
    index = np.searchsorted(known, windows)
    shifted = (final[index] >= 0) & ((first[index] != places) | (final[index] != places))
    shifted &= _bits(train, val, width)[:, places] >= np.log2(train.tokens.size) + _BEYOND_CHANCE
    covered = np.zeros(val.mask.shape, dtype=bool)
    for column, place in enumerate(places):
        covered[shifted[:, column], place : place + width] = True
    return float((covered & val.mask).sum() / max(1, val.mask.sum()))


def _row_hashes(rows: Sequences, width: int) -> UInt64[np.ndarray, "rows windows"]:
    """A hash of each window of each row: of its tokens and its counted targets."""
    tokens, counted = rows.tokens.astype(np.uint64), np.where(rows.mask, rows.targets, -1).astype(np.int64).view(np.uint64)
    return _combined((tokens + _MIX) * _MIX ^ (counted + np.uint64(1)), width)


def _bits(train: Sequences, val: Sequences, width: int) -> Float[np.ndarray, "rows windows"]:
    """How improbable each window's tokens are by their frequencies in training, in bits."""
    ids, counts = np.unique(train.tokens, return_counts=True)
    at = np.minimum(np.searchsorted(ids, val.tokens), len(ids) - 1)
    shares = np.where(ids[at] == val.tokens, counts[at], 1) / train.tokens.size
    sums = np.cumsum(np.pad(-np.log2(shares), ((0, 0), (1, 0))), axis=1)
    return sums[:, width:] - sums[:, :-width]
