"""Finds a passage of the training text that begins, ends or is inside the validation text."""

from __future__ import annotations

import unicodedata

import numpy as np
from jaxtyping import Int, UInt64

from minigpt.components.dataset.overlap import window_hashes

_WIDTH = 32
"""Characters of a window, without white space."""

_SEARCHED = 1 << 20
"""Characters of the training text that are searched, from its end, and at most as many of the validation text."""

_SHORTEST_JOIN = 24
"""A shorter passage at the end of one text and the beginning of the other is there by chance."""

_SHORTEST = 24
"""Windows of a passage: fewer, some 56 characters in all, are a phrase or a formula."""


def joining_passage(train: str, val: str) -> str:
    """Return what ends one text and begins the other one, if training has it nowhere else; else an empty text."""
    for first, second in ((train, val), (val, train)):
        start, head = max(0, len(first) - len(second)), second[:_SHORTEST_JOIN]
        at = first.find(head, start) if len(head) == _SHORTEST_JOIN else -1
        while at >= 0 and not second.startswith(first[at:]):
            at = first.find(head, at + 1)
        if at >= 0 and train.count(first[at:]) == 1:
            return first[at:]
    return ""


def common_passage(train: str, val: str) -> str:
    """Return the longest passage of the validation text that training has once, if it is long; else an empty text.

    It is long compared with the longest one that training has twice: eight times as long, or four times if the validation
    text has also twice the share of such passages. White space does not count, nor does what begins or ends both texts,
    such as a head line.
    """
    train, val = _without_ends(_without_spaces(train[-_SEARCHED:]), _without_spaces(val[:_SEARCHED]))
    if min(len(train), len(val)) < _WIDTH:
        return ""
    known, counts = np.unique(window_hashes(train, _WIDTH), return_counts=True)
    in_val, in_train = _times(known, counts, val), _times(known, counts, train) - 1
    (places, length), usual = _longest(in_val), _longest(in_train)[1]
    has_many = (in_val == 1).mean() > 2 * (in_train == 1).mean()
    if length < max(_SHORTEST, (4 if has_many else 8) * usual):
        return ""
    return val[places.start : places.stop + _WIDTH - 1]


def _times(known: UInt64[np.ndarray, " known"], counts: Int[np.ndarray, " known"], text: str) -> Int[np.ndarray, " places"]:
    """How often training has the window at each place of a text."""
    hashes = window_hashes(text, _WIDTH)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.where(known[at] == hashes, counts[at], 0)


def _longest(times: Int[np.ndarray, " places"]) -> tuple[slice, int]:
    """The run of places with windows of training in which most windows occur there once, and the number of these."""
    edges = np.flatnonzero(np.diff(np.pad(times > 0, 1).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return slice(0, 0), 0
    once = np.concatenate(([0], np.cumsum(times == 1)))
    scores = once[ends] - once[starts]
    best = int(scores.argmax())
    return slice(int(starts[best]), int(ends[best])), int(scores[best])


def _without_spaces(text: str) -> str:
    return "".join(unicodedata.normalize("NFC", text).split())


def _without_ends(one: str, other: str) -> tuple[str, str]:
    """Two texts without what begins both and what ends both."""
    begins = _alike(one, other)
    one, other = one[begins:], other[begins:]
    ends = _alike(one[::-1], other[::-1])
    return one[: len(one) - ends], other[: len(other) - ends]


def _alike(one: str, other: str) -> int:
    """The number of characters that begin both texts."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
