"""my_part: text to ids and back.

`fit` learns the vocabulary from the training text; `encode` gives ids from 0 to
vocab_size - 1, `decode` the text again. `to_json` holds all that was learned, for the
run folder, and `from_json` takes it back. Keyword-only arguments are its JSON
parameters: annotate each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

holds it to this:

- decode(encode(text)) is text, to the character; what it cannot express it refuses with
  a TokenizerError (minigpt.errors) that names the symbol and its place;
- decode takes any ids, as a model may write any: what is no text gives U+FFFD;
- the same text gives the same vocabulary in every process, and encoding learns nothing;
- what was learned survives JSON;
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

BASE = 128  # three digits of base 128 write any code point, and are the first 128 ids


@register("tokenizer", "my_part")
class MyPart(Tokenizer):
    """A token for each of the commonest characters; others are spelt in three digits.

    So no text is outside the vocabulary, and a prompt may have any character.

    Args:
        common: Characters that get a token of their own, at most.
    """

    def __init__(self, *, common: Annotated[int, Field(ge=0)] = 100):
        self.common = common
        self._take([])

    def _take(self, characters: list[str]) -> None:
        self._characters = characters
        self._ids = {character: BASE + i for i, character in enumerate(characters)}

    def fit(self, text: str) -> None:
        counts = Counter(text)
        # Ties go by code point: the order must not hang on what was met first.
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
        # As numbers: JSON would join two lone surrogates to one character.
        return {"code_points": [ord(character) for character in self._characters]}

    def from_json(self, learned: dict[str, Any]) -> None:
        self._take([chr(code) for code in learned["code_points"]])


def _character(digits: list[int]) -> str:
    code = (digits[0] * BASE + digits[1]) * BASE + digits[2]
    return chr(code) if code <= 0x10FFFF else "\ufffd"
