"""Capitals as a mark and a lower-case letter: an example plugin, a tokenizer.

Use it by naming this file in an experiment's "plugins" (see experiments/case_marking.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/case_marking.py --set tokenizer=case_marking
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from minigpt.contracts import Tokenizer
from minigpt.errors import TokenizerError
from minigpt.registry import register

_MARK = 0
_NOTHING = "\ufffd"  # for a mark without a lower-case letter after it


@register("tokenizer", "case_marking")
class CaseMarkingTokenizer(Tokenizer):
    """Characters, with a capital as a mark and its lower-case letter, so that words have one spelling in a sentence.

    Inline casing (Berard et al. 2019, arXiv:1907.06488), by characters. It is lossless: a capital is marked if its
    lower-case letter maps back to it. Other letters, such as İ, ẞ and ǅ, are separate characters.

    Ids are the mark and then the corpus's characters in the order of their code points.
    """

    fits_on = "all"

    def __init__(self) -> None:
        self._learn([])

    def _learn(self, characters: list[str]) -> None:
        self._characters = characters
        self._ids = {character: index for index, character in enumerate(characters, _MARK + 1)}

    def fit(self, text: str) -> None:
        self._learn(sorted({_small_letter(character) or character for character in set(text)}))

    @property
    def vocab_size(self) -> int:
        return _MARK + 1 + len(self._characters)

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        spelt: dict[str, list[int]] = {}
        characters = set(text)
        for character in characters:
            small = _small_letter(character)
            if (small or character) in self._ids:
                spelt[character] = [self._ids[character]] if small is None else [_MARK, self._ids[small]]
        if len(spelt) < len(characters):
            place, unknown = next((place, character) for place, character in enumerate(text) if character not in spelt)
            raise TokenizerError(
                f"character {unknown!r} (U+{ord(unknown):04X}, at {place}) is not in the vocabulary of "
                f"{len(self._characters)} characters: {''.join(self._characters[:100])!r}"
            )
        return np.array([token for character in text for token in spelt[character]], dtype=np.int64)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        text: list[str] = []
        marked = False
        for token in ids:
            if token != _MARK:
                character = self._characters[token - _MARK - 1]
                capital = _capital(character) if marked else character
                text += [capital] if capital else [_NOTHING, character]
            elif marked:
                text.append(_NOTHING)
            marked = token == _MARK
        return "".join([*text, _NOTHING] if marked else text)

    def to_json(self) -> dict[str, Any]:
        return {"code_points": list(map(ord, self._characters))}

    def from_json(self, learned: dict[str, Any]) -> None:
        characters = list(map(chr, learned["code_points"]))
        if characters != sorted(set(characters)):
            raise ValueError("code_points are not in ascending order")
        self._learn(characters)


def _small_letter(character: str) -> str | None:
    """The lower-case letter of a capital that is marked; None for other characters."""
    small = character.lower()
    return small if small != character and small.upper() == character else None


def _capital(character: str) -> str | None:
    """The capital of a lower-case letter; None if it has none."""
    capital = character.upper()
    return capital if _small_letter(capital) == character else None
