"""Broken tokenizers."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from minigpt.contracts import Tokenizer
from minigpt.errors import TokenizerError
from tests.broken import broken, correct


@correct("tokenizer")
class Characters(Tokenizer):
    """An id for each character of the text."""

    def __init__(self) -> None:
        self.learn([])

    def learn(self, pieces: list[str]) -> None:
        """Number the pieces."""
        self.pieces = pieces
        self.ids = {piece: index for index, piece in enumerate(pieces)}

    def fit(self, text: str) -> None:
        self.learn(sorted(set(self.split(text))))

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def split(self, text: str) -> list[str]:
        """Return the pieces, each of which gets an id."""
        return list(text)

    def encode(self, text: str) -> np.ndarray:
        return np.array([self.id_of(piece) for piece in self.split(text)], dtype=np.int64)

    def id_of(self, piece: str) -> int:
        """Return a piece's id, or raise an error that says why it has none."""
        if piece not in self.ids:
            raise TokenizerError(f"{piece!r} is not among the {self.vocab_size} characters of the fitted text")
        return self.ids[piece]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return "".join(self.pieces[index] for index in ids)

    def to_json(self) -> dict[str, Any]:
        return {
            "pieces": [list(map(ord, piece)) for piece in self.pieces]
        }  # code points, because no file can contain a lone surrogate

    def from_json(self, learned: dict[str, Any]) -> None:
        self.learn(["".join(map(chr, codes)) for codes in learned["pieces"]])


@correct("tokenizer")
class Bytes(Tokenizer):
    """An id for each byte of UTF-8; a lone surrogate is refused.

    Args:
        first_id: The id of byte 0.
    """

    def __init__(self, *, first_id: Annotated[int, Field(ge=0, le=8)] = 0):
        self.first_id = first_id

    def fit(self, text: str) -> None:
        """Nothing to learn."""

    @property
    def vocab_size(self) -> int:
        return 256 + self.first_id

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(self.to_bytes(text), dtype=np.uint8).astype(np.int64) + self.first_id

    def to_bytes(self, text: str) -> bytes:
        """Return the text in UTF-8."""
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"{text[error.start]!r} at {error.start} is a lone surrogate, which UTF-8 cannot encode"
            ) from error

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        raw = np.clip(np.asarray(ids, dtype=np.int64) - self.first_id, 0, 255)
        return raw.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def to_json(self) -> dict[str, Any]:
        return {}

    def from_json(self, learned: dict[str, Any]) -> None:
        """Nothing was learned."""


@broken("tokenizer", "byte_counts", "half a character is counted as the three bytes of U+FFFD")
class HalfCountsAsWhole(Bytes):
    def n_bytes(self, ids: Sequence[int] | np.ndarray, text: str) -> int:
        return len(self.decode(ids).encode("utf-8", "surrogatepass"))


@broken("tokenizer", "lossless", "characters outside ASCII are dropped")
class AsciiOnly(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return text.encode("ascii", "ignore")


@broken("tokenizer", "lossless", "lone surrogates silently become question marks")
class SurrogatesBecomeQuestions(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return text.encode("utf-8", "replace")


@broken("tokenizer", "lossless", "text is normalised, so two characters may become one")
class Normalises(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return super().to_bytes(unicodedata.normalize("NFC", text))


@broken("tokenizer", "lossless", "white space around the text is stripped")
class Strips(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return super().to_bytes(text.strip())


@broken("tokenizer", "lossless", "capitals are converted to lower case")
class LowerCases(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return super().to_bytes(text.lower())


@broken("tokenizer", "lossless", "line ends are translated as in text-mode files")
class TranslatesNewlines(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return super().to_bytes(text.replace("\r\n", "\n").replace("\r", "\n"))


@broken("tokenizer", "lossless", "byte 0 is treated as padding and dropped in decoding")
class NulIsPadding(Bytes):
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return super().decode([index for index in ids if index != self.first_id])


@broken("tokenizer", "lossless", "the dtype depends on the largest id, which an empty text does not have")
class EmptyTextFails(Bytes):
    def encode(self, text: str) -> np.ndarray:
        ids = super().encode(text)
        return ids.astype(np.min_scalar_type(int(max(ids))))


@broken("tokenizer", "lossless", "a lone surrogate raises Python's error instead of a TokenizerError")
class SurrogatesFail(Bytes):
    def to_bytes(self, text: str) -> bytes:
        return text.encode("utf-8")


@broken("tokenizer", "lossless", "an unknown character becomes a known one")
class UnknownBecomesTheFirst(Characters):
    def id_of(self, piece: str) -> int:
        return self.ids.get(piece, 0)


@broken("tokenizer", "lossless", "words are split at any white space and joined with single spaces")
class JoinsWithSpaces(Characters):
    def split(self, text: str) -> list[str]:
        return text.split()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return " ".join(self.pieces[index] for index in ids)


@broken("tokenizer", "ids", "vocab_size is the largest id instead of one more")
class VocabularyOneTooSmall(Characters):
    @property
    def vocab_size(self) -> int:
        return super().vocab_size - 1


@broken("tokenizer", "ids", "bytes are read as signed numbers, so bytes from 128 are negative")
class SignedBytes(Bytes):
    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(self.to_bytes(text), dtype=np.int8).astype(np.int64) + self.first_id

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return super().decode((np.asarray(ids, dtype=np.int64) - self.first_id) % 256 + self.first_id)


@broken("tokenizer", "ids", "ids have a batch axis")
class IdsWithABatch(Bytes):
    def encode(self, text: str) -> np.ndarray:
        return super().encode(text)[None]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return super().decode(np.asarray(ids).reshape(-1))


@broken("tokenizer", "tolerance", "half a character is not valid UTF-8, and decoding it raises an exception")
class StrictDecode(Bytes):
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        raw = np.clip(np.asarray(ids, dtype=np.int64) - self.first_id, 0, 255)
        return raw.astype(np.uint8).tobytes().decode("utf-8")


@broken("tokenizer", "tolerance", "ids below first_id are reserved, and decoding one raises an exception")
class GapInTheIds(Bytes):
    def __init__(self, *, first_id: Annotated[int, Field(ge=0, le=8)] = 3):
        super().__init__(first_id=first_id)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return bytes(int(index) - self.first_id for index in ids).decode("utf-8", "replace")


@broken("tokenizer", "fitting", "ids follow the order of a set, which differs in each process")
class SetOrder(Characters):
    def fit(self, text: str) -> None:
        self.learn(list(set(self.split(text))))


@broken("tokenizer", "fitting", "ids are saved as JSON keys, which become text")
class NumbersForKeys(Characters):
    def to_json(self) -> dict[str, Any]:
        return {"codes": {index: ord(piece) for index, piece in enumerate(self.pieces)}}

    def from_json(self, learned: dict[str, Any]) -> None:
        self.learn([chr(learned["codes"][index]) for index in range(len(learned["codes"]))])


@broken("tokenizer", "fitting", "the vocabulary is saved as a set, which JSON cannot represent")
class SavesASet(Characters):
    def to_json(self) -> dict[str, Any]:
        return {"codes": set(map(ord, self.pieces))}

    def from_json(self, learned: dict[str, Any]) -> None:
        self.learn(sorted(map(chr, learned["codes"])))


@broken("tokenizer", "fitting", "the restored vocabulary is numbered in reverse")
class RestoredInAnotherOrder(Characters):
    def from_json(self, learned: dict[str, Any]) -> None:
        super().from_json(learned)
        self.learn(self.pieces[::-1])


@broken("tokenizer", "fitting", "a new character gets a new id while text is encoded")
class LearnsWhileEncoding(Characters):
    def id_of(self, piece: str) -> int:
        if piece not in self.ids:
            self.learn([*self.pieces, piece])
        return self.ids[piece]


@broken("tokenizer", "fitting", "the vocabulary is a class attribute, so a second tokenizer changes the first")
class SharedVocabulary(Characters):
    shared: list[str] = []  # noqa: RUF012 - the mistake

    def fit(self, text: str) -> None:
        self.shared.extend(sorted(set(text) - set(self.shared)))
        self.learn(self.shared)


@broken("tokenizer", "fitting", "a second fit keeps the earlier vocabulary")
class FitsOnTop(Characters):
    def fit(self, text: str) -> None:
        self.learn(self.pieces + sorted(set(text) - set(self.pieces)))


@broken("tokenizer", "knobs", "a size is accepted, but the vocabulary is not limited")
class SizeNotUsed(Characters):
    """Characters, limited to the most frequent.

    Args:
        max_vocab: Largest number of characters.
    """

    def __init__(self, *, max_vocab: Annotated[int, Field(ge=1)] | None = None):
        super().__init__()
        self.max_vocab = max_vocab
