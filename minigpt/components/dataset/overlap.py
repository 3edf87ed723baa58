"""How much of the validation text is in the training text too, where a model could memorize it."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt64

NEARLY_ALL = 0.9
"""With at least this share in common, one text counts as a copy of a part of the other."""

_WIDTHS = (64, 16)
"""Characters of a window: the first width that the validation text is long enough for. Shorter texts match by chance."""

_ENOUGH = 4096
"""Approximate number of windows of the validation text that are searched for, regardless of its length."""

_FEWEST_LINES = 16
"""With fewer different lines of validation text, lines are not compared."""

_COUNTED = 1 << 18
"""Approximate number of lines and windows of the training text that are counted, to estimate how often they repeat."""

_LINE = re.compile(r"[^\n\r]+")

_CHUNK = 1 << 16  # characters; the arrays of a chunk stay in the processor's cache
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication by it is invertible


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
    """Overlap in windows, minus the overlap that is expected because the training text repeats itself.

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
    counted, bits_counted = [np.zeros(0, dtype=np.uint64)], (len(train) // _COUNTED).bit_length()
    for hashes in _chosen_by_chunk(train, width, min(bits, bits_counted)):
        counted.append(_beginning_with_zeros(hashes, bits_counted))
        hashes = _beginning_with_zeros(hashes, bits)
        places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        in_both[places[known[places] == hashes]] = True
    in_training = in_both[np.searchsorted(known, looked_for)]
    shared = _beyond(float(in_training.mean()), _repeated(np.concatenate(counted)))
    return Overlap(shared, len(known) / len(looked_for), f"windows of {width} characters")


def _beyond(shared: float, expected: float) -> float:
    """The share that is left of a share if a part of it was to be expected."""
    return max(0.0, (shared - expected) / (1 - expected)) if expected < 1 else 0.0


def _repeated(hashes: UInt64[np.ndarray, " windows"]) -> float:
    """The share of windows that occur more than once: boilerplate. A text that is there twice does not repeat itself."""
    if not len(hashes):
        return 0.0
    times = np.unique(hashes, return_counts=True)[1]
    often = np.bincount(times)
    copies = int(often.argmax()) if 2 * often.max() > len(times) else 1
    return float(times[times > copies].sum() / times.sum())


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
    return Overlap(_beyond(shared / total, expected / total), len(lines) / lines.total(), "lines")


def _repeated_by_length(text: str) -> dict[int, float]:
    """For each length, the share of lines that occur more than once.

    It is measured on a sample of lines, selected by a hash of their content. If most different lines occur equally often,
    say twice, then the whole text is there twice, and only lines that occur more often repeat by chance.
    """
    bits = (text.count("\n") // _COUNTED).bit_length()
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
        hashes = window_hashes(before + chunk, width)
        before = (before + chunk)[-(width - 1) :]
        yield _beginning_with_zeros(hashes, bits)


def _beginning_with_zeros(hashes: UInt64[np.ndarray, " windows"], bits: int) -> UInt64[np.ndarray, " chosen"]:
    return hashes[hashes >> np.uint64(64 - bits) == 0] if bits else hashes


def window_hashes(text: str, width: int) -> UInt64[np.ndarray, " windows"]:
    """A hash of each window, by doubling: two adjacent hashes combine into a hash of twice the width."""
    if len(text) < width:
        return np.zeros(0, dtype=np.uint64)
    return combined(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64) + MIX, width)


def combined(hashes: UInt64[np.ndarray, "*rows symbols"], width: int) -> UInt64[np.ndarray, "*rows windows"]:
    """Hashes of windows of this width, a power of two, from hashes of single symbols."""
    span = 1
    while span < width:
        hashes = hashes * (MIX + np.uint64(2 * span))
        hashes ^= hashes >> np.uint64(29)
        hashes = hashes[..., :-span] + hashes[..., span:] * MIX
        span *= 2
    return hashes * MIX
