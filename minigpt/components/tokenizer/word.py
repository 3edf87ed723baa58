"""A token for every frequent word."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int
from pydantic import Field

from minigpt.components.tokenizer.utf8 import from_utf8, to_utf8
from minigpt.contracts import Tokenizer
from minigpt.registry import register

_N_BYTES = 256


@register("tokenizer", "word")
class WordTokenizer(Tokenizer):
    """Words, runs of white space and punctuation marks; other pieces are encoded as bytes.

    A word is a run of letters, digits and underscores with their combining marks. Ids below 256 are the bytes of UTF-8, so
    any text is encoded without loss, and a rare piece takes as many tokens as it has bytes.

    Args:
        max_vocab: How many pieces get an id in addition to the 256 bytes: the most frequent of the training text; equally
            frequent pieces are sorted by code points. null for all pieces. Then training never sees byte ids, which encode
            new pieces in other text; keep fewer than all, so that rare words train them.
    """

    def __init__(self, *, max_vocab: Annotated[int, Field(ge=1)] | None = 4096):
        self.max_vocab = max_vocab
        self._learn([])

    def _learn(self, pieces: list[str]) -> None:
        self._pieces = pieces
        self._ids = {piece: _N_BYTES + index for index, piece in enumerate(pieces)}
        self._bytes = [*(bytes([byte]) for byte in range(_N_BYTES)), *map(to_utf8, pieces)]

    def fit(self, text: str) -> None:
        counts = Counter(_pieces().findall(text))
        for piece in [piece for piece in counts if "\ud800" <= piece <= "\udfff"]:
            del counts[piece]  # no file can store a lone surrogate as text; its three bytes encode it
        self._learn(sorted(counts, key=lambda piece: (-counts[piece], piece))[: self.max_vocab])

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        ids: list[int] = []
        for piece in _pieces().findall(text):
            known = self._ids.get(piece)
            if known is None:
                ids += to_utf8(piece)
            else:
                ids.append(known)
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        return from_utf8(b"".join(self._bytes[token] for token in ids))

    def n_bytes(self, ids: Sequence[int] | Int[np.ndarray, " tokens"], text: str) -> int:
        return sum(len(self._bytes[token]) for token in ids)

    def to_json(self) -> dict[str, Any]:
        return {"pieces": self._pieces}

    def from_json(self, learned: dict[str, Any]) -> None:
        pieces = learned["pieces"]
        if not isinstance(pieces, list) or not all(isinstance(piece, str) and piece for piece in pieces):
            raise ValueError("pieces are not a list of texts")
        if len(set(pieces)) < len(pieces):
            raise ValueError(f"a piece occurs twice: {Counter(pieces).most_common(1)[0][0]!r}")
        if self.max_vocab is not None and len(pieces) > self.max_vocab:
            raise ValueError(f"{len(pieces)} pieces, but max_vocab is {self.max_vocab}")
        self._learn(pieces)


@functools.cache
def _pieces() -> re.Pattern[str]:
    """A pattern that matches one piece after another and covers every character."""
    # Unicode has combining marks in its first two planes and among the variation selectors; Python's \w omits them.
    places = (*range(0x20000), *range(0xE0100, 0xE01F0))
    marks = "".join(char for char in map(chr, places) if unicodedata.category(char).startswith("M"))
    return re.compile(rf"\w[\w{marks}]*|\s+|[^\w\s]")
