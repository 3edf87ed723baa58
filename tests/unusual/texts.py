"""Tokenizers that are right but unusual: with a fixed alphabet, with marks, or slow."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from minigpt.contracts import Tokenizer
from minigpt.errors import TokenizerError
from tests.unusual import unusual


class _Fixed(Tokenizer):
    """An alphabet that nothing can be added to."""

    letters: str

    def __init__(self) -> None:
        pass

    def fit(self, text: str) -> None:
        self.encode(text)

    @property
    def vocab_size(self) -> int:
        return len(self.letters)

    def encode(self, text: str) -> np.ndarray:
        for place, letter in enumerate(text):
            if letter not in self.letters:
                raise TokenizerError(f"{letter!r} at {place} is none of {self.letters}")
        return np.array([self.letters.index(letter) for letter in text], dtype=np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return "".join(self.letters[index] for index in ids)

    def to_json(self) -> dict[str, Any]:
        return {}

    def from_json(self, learned: dict[str, Any]) -> None:
        """Nothing was learned."""


@unusual("tokenizer", "fitting", "its alphabet has four letters, and fit refuses any other text")
class Nucleotides(_Fixed):
    letters = "ACGT"


@unusual("tokenizer", "lossless", "its alphabet is the one of a telegraph, without small letters")
class Telegraph(_Fixed):
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 +"


@unusual("tokenizer", "ids", "an id is a group of three letters, so a text has three, six or nine of them")
class Codons(_Fixed):
    letters = "ACGT"

    @property
    def vocab_size(self) -> int:
        return 64

    def encode(self, text: str) -> np.ndarray:
        ids = super().encode(text)
        if len(ids) % 3:
            raise TokenizerError(f"a text of {len(ids)} letters has no whole number of groups of three")
        return ids.reshape(-1, 3) @ np.array([16, 4, 1])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return "".join(self.letters[index // size % 4] for index in ids for size in (16, 4, 1))


class _Characters(Tokenizer):
    """A character for each id, without code points that no file can have."""

    def __init__(self) -> None:
        self.known = ""

    def marked(self, text: str) -> str:
        """Return a text in other characters."""
        return text

    def unmarked(self, text: str) -> str:
        """Return the text that `marked` received."""
        return text

    def fit(self, text: str) -> None:
        self.known = "".join(sorted(set(self.marked(text))))

    @property
    def vocab_size(self) -> int:
        return len(self.known)

    def encode(self, text: str) -> np.ndarray:
        ids = {character: index for index, character in enumerate(self.known)}
        marked = self.marked(text)
        if unknown := set(marked) - ids.keys():
            raise TokenizerError(f"{min(unknown)!r} is not in the fitted text")
        return np.array([ids[character] for character in marked], dtype=np.int64)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self.unmarked("".join(self.known[index] for index in ids))

    def to_json(self) -> dict[str, Any]:
        return {"codes": list(map(ord, self.known))}

    def from_json(self, learned: dict[str, Any]) -> None:
        self.known = "".join(map(chr, learned["codes"]))


@unusual("tokenizer", "lossless", "a private-use character marks capitals, and itself where a text has it")
class EscapedMark(_Characters):
    def marked(self, text: str) -> str:
        return re.sub("[A-Z\ue000]", lambda match: "\ue000" + match[0].lower(), text)

    def unmarked(self, text: str) -> str:
        return re.sub("\ue000([a-z\ue000])", lambda match: match[1].upper(), text)


@unusual("tokenizer", "large", "an id is half a character in UTF-16, so no id is above 65,535, and a length may be odd")
class HalfCharacters(_Characters):
    def encode(self, text: str) -> np.ndarray:
        if re.search("[\ud800-\udfff]", text):
            raise TokenizerError("half a character of UTF-16 looks like a lone surrogate")
        return np.frombuffer(text.encode("utf-16-le"), dtype=np.uint16).astype(np.int64)

    def fit(self, text: str) -> None:
        self.encode(text)

    @property
    def vocab_size(self) -> int:
        return 2**16

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return np.asarray(ids).astype(np.uint16).tobytes().decode("utf-16-le", "replace")


@unusual("tokenizer", "ids", "pairs are merged one after another, in a time that grows with the square of the text")
class SlowPairs(_Characters):
    pieces: tuple[str, ...] = ()

    def fit(self, text: str) -> None:
        super().fit(text)
        self.pieces = ()
        for _ in range(2):
            pairs = Counter(one + other for one, other in pairwise(self.split(text)))
            if not pairs:
                return
            self.pieces += (max(pairs, key=lambda pair: (pairs[pair], pair)),)

    @property
    def vocab_size(self) -> int:
        return len(self.known) + len(self.pieces)

    def split(self, text: str) -> list[str]:
        """Return the pieces of a text, the first of which is cut off again and again."""
        pieces = []
        while text:
            piece = next((piece for piece in self.pieces[::-1] if text.startswith(piece)), text[0])
            pieces.append(piece)
            text = text[len(piece) :]
        return pieces

    def encode(self, text: str) -> np.ndarray:
        ids = {piece: index for index, piece in enumerate((*self.known, *self.pieces))}
        try:
            return np.array([ids[piece] for piece in self.split(text)], dtype=np.int64)
        except KeyError as unknown:
            raise TokenizerError(f"{unknown} is not in the fitted text") from unknown

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return "".join((*self.known, *self.pieces)[index] for index in ids)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "pieces": [list(map(ord, piece)) for piece in self.pieces]}

    def from_json(self, learned: dict[str, Any]) -> None:
        super().from_json(learned)
        self.pieces = tuple("".join(map(chr, codes)) for codes in learned["pieces"])
