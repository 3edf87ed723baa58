"""Broken tokenizers whose mistake shows with rare symbols, with many of them, or when they are fitted again."""

from __future__ import annotations

import array
import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.broken import broken
from tests.broken.tokenizer import Bytes, Characters


@broken("tokenizer", "lossless", "typographic quotes become straight ones")
class StraightQuotes(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return super().to_bytes(text.translate(str.maketrans("“”‘’", "\"\"''")))


@broken("tokenizer", "lossless", "dashes become hyphens")
class Hyphens(Characters):
    def split(self, text: str) -> list[str]:
        return list(re.sub("[–—]", "-", text))


@broken("tokenizer", "lossless", "some contractions are taken apart, and another set of them is joined again")
class Contractions(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return super().to_bytes(re.sub(r"\b(they|we)'(ll|d)\b", r"\1 \2", text))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return re.sub(r"\b(they|we) (ll)\b", r"\1'\2", super().decode(ids))


@broken("tokenizer", "lossless", "a private-use character marks capitals, and a text may have it too")
class PrivateMark(Characters):
    def split(self, text: str) -> list[str]:
        return list(re.sub("[A-Z]", lambda match: "\ue000" + match[0].lower(), text))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return re.sub("\ue000([a-z])", lambda match: match[1].upper(), super().decode(ids))


@broken("tokenizer", "lossless", "HTML is unescaped, which a text about HTML does not survive")
class Unescapes(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return super().to_bytes(text.replace("&amp;", "&"))


@broken("tokenizer", "large", "ids are kept in 16 bits, so the 65,537th symbol gets the first one's id")
class SixteenBits(Characters):
    def encode(self, text: str) -> np.ndarray:
        return super().encode(text).astype(np.uint16).astype(np.int64)


@broken("tokenizer", "large", "code points are kept in 16 bits, which characters of the second plane do not fit into")
class CodePointsInSixteenBits(Characters):
    def from_json(self, learned: dict[str, Any]) -> None:
        super().from_json({"pieces": [[code % 2**16 for code in codes] for codes in learned["pieces"]]})

    def to_json(self) -> dict[str, Any]:
        return {"pieces": [[code % 2**16 for code in map(ord, piece)] for piece in self.pieces]}


@broken("tokenizer", "large", "an array of 16-bit ids refuses the 65,537th symbol with an exception")
class ArrayOfShorts(Characters):
    def encode(self, text: str) -> np.ndarray:
        return np.array(array.array("H", super().encode(text).tolist()), dtype=np.int64)


@broken("tokenizer", "large", "a long text is cut into pairs of parts, and a last part without a partner is dropped")
class DropsTheLastPart(Bytes):
    def encode(self, text: str) -> np.ndarray:
        return super().encode(text[: len(text) // 2 * 2] if len(text) > 2**16 else text)


@broken("tokenizer", "large", "the length of a run of spaces is kept in 16 bits")
class LongRuns(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return super().to_bytes(re.sub(" {65536}", "", text))


@broken("tokenizer", "fitting", "the ids of texts are cached, also after the next fit")
class CachedIds(Characters):
    def __init__(self) -> None:
        super().__init__()
        self.cached = functools.cache(super().encode)

    def encode(self, text: str) -> np.ndarray:
        return self.cached(text)


@broken("tokenizer", "fitting", "a second fit is ignored")
class FitsOnce(Characters):
    def fit(self, text: str) -> None:
        if not self.pieces:
            super().fit(text)


@broken("tokenizer", "fitting", "characters are counted over all fits, and the most frequent one of all comes first")
class CountsAllFits(Characters):
    def __init__(self) -> None:
        super().__init__()
        self.seen = ""

    def fit(self, text: str) -> None:
        self.seen += text
        self.learn(sorted(set(text), key=lambda piece: (-self.seen.count(piece), piece)))


@broken("tokenizer", "fitting", "quotes open and close in turn, and the turn remains after a text")
class TurnsRemain(Characters):
    opened = False

    def encode(self, text: str) -> np.ndarray:
        ids = super().encode(text)
        if text.count('"') % 2:
            self.opened = not self.opened
        return ids[::-1] if self.opened and len(text) < 3 else ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return super().decode(ids)
