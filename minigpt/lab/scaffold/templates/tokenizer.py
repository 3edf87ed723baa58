"""my_part: text to ids and back.

`fit` learns the vocabulary from the training text. `encode` returns ids from 0 to
vocab_size - 1, and `decode` returns their text. `to_json` returns all learned values
for the run folder, and `from_json` restores them. Keyword-only arguments are its JSON
parameters: annotate each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- decode(encode(text)) is text, to the character; a text that it cannot encode is
  refused with a TokenizerError (minigpt.errors) that has the symbol and its index;
- decode accepts any ids, because a model may write any: ids that are not valid text
  give U+FFFD;
- the same text gives the same vocabulary in every process, and encoding learns nothing;
- learned values are the same after saving them as JSON;
- every keyword argument changes something.

Edit first: `encode`, and `decode` with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int
from pydantic import Field

from minigpt.contracts import Tokenizer
from minigpt.registry import register

BASE = 128  # three digits of base 128 encode any code point, and are the first 128 ids


@register("tokenizer", "my_part")
class MyPart(Tokenizer):
    """A token for each of the most common characters; three digits encode any other.

    So no text is outside the vocabulary, and a prompt may have any character.

    Args:
        common: The largest number of characters with their own token.
    """

    def __init__(self, *, common: Annotated[int, Field(ge=0)] = 100):
        self.common = common
        self._take([])

    def _take(self, characters: list[str]) -> None:
        self._characters = characters
        self._ids = {character: BASE + i for i, character in enumerate(characters)}

    def fit(self, text: str) -> None:
        counts = Counter(text)
        # Ties go by code point, so that the order of the text does not matter.
        ordered = sorted(counts, key=lambda character: (-counts[character], character))
        self._take(ordered[: self.common])

    @property
    def vocab_size(self) -> int:
        return BASE + len(self._characters)

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        ids: list[int] = []
        for character in text:
            if character in self._ids:
                ids.append(self._ids[character])
            else:
                code = ord(character)
                ids += (code // BASE**2, code // BASE % BASE, code % BASE)
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        text: list[str] = []
        digits: list[int] = []
        for token in map(int, ids):
            if token < BASE:
                digits.append(token)
                if len(digits) == 3:
                    text.append(_character(digits))
                    digits = []
                continue
            if digits:  # half a character
                text.append("\ufffd")
                digits = []
            text.append(self._characters[token - BASE])
        return "".join(text) + ("\ufffd" if digits else "")

    def to_json(self) -> dict[str, Any]:
        # As numbers, because JSON would join two lone surrogates to one character.
        return {"code_points": [ord(character) for character in self._characters]}

    def from_json(self, learned: dict[str, Any]) -> None:
        self._take([chr(code) for code in learned["code_points"]])


def _character(digits: list[int]) -> str:
    code = (digits[0] * BASE + digits[1]) * BASE + digits[2]
    return chr(code) if code <= 0x10FFFF else "\ufffd"
