"""Text and data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Int

from minigpt.system.download import RemoteFile


class Tokenizer(ABC):
    """Text to ids and back, without loss for any text it claims. Constructor: `(*, ...)`; then `fit` or `from_json`."""

    fits_on: ClassVar[Literal["train", "all"]] = "train"
    """Which text `fit` is given. "all" is for an inventory of symbols, which says nothing about their order."""

    @abstractmethod
    def fit(self, text: str) -> None:
        """Learn the vocabulary."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids; every id is below it."""

    @abstractmethod
    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Text to ids.

        Raises:
            TokenizerError: The text has a symbol outside the vocabulary; the message names it and its place.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """Ids to text. Ids that are no text (half a character) give U+FFFD, never an exception."""

    def n_bytes(self, ids: Sequence[int] | Int[np.ndarray, " tokens"], text: str) -> int:
        """UTF-8 bytes of `text` that the first of its ids stand for: bits per byte divide by what is left.

        Here a character counts with the last of its ids. A tokenizer whose ids are bytes counts the bytes.
        """
        decoded = self.decode(ids)
        pairs = enumerate(zip(decoded, text, strict=False))
        complete = next((index for index, (one, other) in pairs if one != other), min(len(decoded), len(text)))
        return len(text[:complete].encode("utf-8", "surrogatepass"))

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """All that was learned, for the run folder: JSON, and no text with lone surrogates, which no file can hold."""

    @abstractmethod
    def from_json(self, learned: dict[str, Any]) -> None:
        """Take back what `to_json` gave."""


@dataclass(frozen=True)
class Sequences:
    """Rows of a synthetic task, with targets of their own.

    Attributes:
        tokens: Input ids.
        targets: What to predict at each place.
        mask: Which targets count.
    """

    tokens: Int[np.ndarray, "rows time"]
    targets: Int[np.ndarray, "rows time"]
    mask: Bool[np.ndarray, "rows time"]


@dataclass(frozen=True)
class Splits:
    """A corpus, divided: both text, or both Sequences.

    Attributes:
        train: What the model learns from.
        val: What it is measured on, whole.
        vocab_size: Number of ids of a synthetic task, those included that no row happens to have; text leaves it to the
            tokenizer.
        notes: What whoever trains on it should know, a line each: what was left out, for example.
    """

    train: str | Sequences
    val: str | Sequences
    vocab_size: int | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of_text(cls, text: str, val_fraction: float) -> Splits:
        """The first part of the text for training, the rest for validation."""
        cut = int(len(text) * (1 - val_fraction) + 1e-6)  # 1e-6: 1 - 0.1 is a hair below 0.9
        return cls(text[:cut], text[cut:])


class Dataset(ABC):
    """A source of text, or of Sequences for a synthetic task. Constructor: `(*, ...)`."""

    remote: ClassVar[RemoteFile | None] = None
    """The file it is downloaded from, if any; `minigpt data` lists, fetches and adds it."""

    @abstractmethod
    def load(self) -> Splits:
        """Read or make the data; the same splits every time.

        Raises:
            DataError: It is missing or damaged; the message says how to go on.
        """
