"""A token for every character."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt32

from minigpt.contracts import Tokenizer
from minigpt.errors import TokenizerError
from minigpt.registry import register


@register("tokenizer", "char")
class CharTokenizer(Tokenizer):
    """An id for each character of the corpus, in the order of their code points."""

    fits_on = "all"

    def __init__(self) -> None:
        self._codes = np.zeros(0, dtype=np.uint32)  # sorted code points; ids are their indices

    def fit(self, text: str) -> None:
        self._codes = np.unique(_code_points(text))

    @property
    def vocab_size(self) -> int:
        return len(self._codes)

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        codes = _code_points(text)
        ids = np.searchsorted(self._codes, codes)
        known = ids < len(self._codes)
        known[known] = self._codes[ids[known]] == codes[known]
        if not known.all():
            place = int(np.argmin(known))
            raise TokenizerError(
                f"character {text[place]!r} (U+{ord(text[place]):04X}, at {place}) is not in the vocabulary of "
                f"{self.vocab_size} characters: {''.join(map(chr, self._codes[:100].tolist()))!r}"
            )
        return ids.astype(np.int64)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        return "".join(map(chr, self._codes[np.asarray(ids, dtype=np.int64)].tolist()))

    def to_json(self) -> dict[str, Any]:
        return {"code_points": self._codes.tolist()}

    def from_json(self, learned: dict[str, Any]) -> None:
        codes = learned["code_points"]
        if not isinstance(codes, list) or not all(type(code) is int and 0 <= code < _BEYOND_UNICODE for code in codes):
            raise ValueError("code_points is not a list of code points")
        if codes != sorted(set(codes)):
            raise ValueError("code_points is not in order, or has one twice")
        self._codes = np.asarray(codes, dtype=np.uint32)


_BEYOND_UNICODE = 0x110000


def _code_points(text: str) -> UInt32[np.ndarray, " characters"]:
    # surrogatepass: Python strings may have lone surrogates, and these are characters too
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
