"""Contracts of tokenizers and datasets, and the values that they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Int, Integer

from minigpt.system.download import RemoteFile


class Tokenizer(ABC):
    """Text to ids and back, lossless for text that it accepts.

    Constructor: `(*, ...)`; then `fit` or `from_json`.
    """

    fits_on: ClassVar[Literal["train", "all"]] = "train"
    """Which text `fit` receives. "all" is for an inventory of symbols, which reveals nothing about their order."""

    @abstractmethod
    def fit(self, text: str) -> None:
        """Learn the vocabulary, from this text only.

        Raises:
            TokenizerError: The alphabet is fixed, and the text has a symbol outside it.
        """

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids; every id is below it."""

    @abstractmethod
    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Text to ids.

        Raises:
            TokenizerError: The text has a symbol outside the vocabulary; the message has the symbol and its index.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """Ids to text. Ids that are not valid text (half a character) give U+FFFD, never an exception."""

    def n_bytes(self, ids: Sequence[int] | Int[np.ndarray, " tokens"], text: str) -> int:
        """UTF-8 bytes of `text` that its first ids, `ids`, cover; bits per byte divide by the other bytes.

        Here a character counts with its last id. A tokenizer whose ids are bytes counts the bytes.
        """
        decoded = self.decode(ids)
        pairs = enumerate(zip(decoded, text, strict=False))
        complete = next((index for index, (one, other) in pairs if one != other), min(len(decoded), len(text)))
        return len(text[:complete].encode("utf-8", "surrogatepass"))

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """All learned values as JSON for the run folder, without lone surrogates, which no file can store."""

    @abstractmethod
    def from_json(self, learned: dict[str, Any]) -> None:
        """Restore the values that `to_json` returned."""


@dataclass(frozen=True)
class Sequences:
    """Rows of a synthetic task with their own targets.

    Attributes:
        tokens: Input ids.
        targets: The id to predict at each position.
        mask: Which targets count.
    """

    tokens: Integer[np.ndarray, "rows time"]
    targets: Integer[np.ndarray, "rows time"]
    mask: Bool[np.ndarray, "rows time"]


@dataclass(frozen=True)
class Splits:
    """A corpus split into training and validation data: both text, or both Sequences.

    Attributes:
        train: Training data.
        val: Validation data, always evaluated in full.
        vocab_size: Number of ids of a synthetic task, including ids that occur in no row; for text the tokenizer sets it.
        notes: Lines that a user of the corpus should read, such as a list of files that were left out.
        alphabet: For a synthetic task whose ids can be shown as text: the experiment's tokenizer is fitted on it, and must
            get `vocab_size` ids. Then samples are drawn, and `generate` works.
        documents: Index of the first character of each document of the training text, beginning with 0; None if the dataset
            knows no documents.
        val_documents: The same for the validation text; `compare` shows how much a result differs between them.
    """

    train: str | Sequences
    val: str | Sequences
    vocab_size: int | None = None
    notes: tuple[str, ...] = ()
    alphabet: str | None = None
    documents: tuple[int, ...] | None = None
    val_documents: tuple[int, ...] | None = None

    @classmethod
    def of_text(cls, text: str, val_fraction: float) -> Splits:
        """Split text: the first part for training, the rest for validation."""
        cut = int(len(text) * (1 - val_fraction) + 1e-6)  # 1e-6: 1 - 0.1 is slightly below 0.9
        return cls(text[:cut], text[cut:])

    @classmethod
    def of_documents(cls, texts: Sequence[str], separator: str, val: float | str | Sequence[str]) -> Splits:
        """Join documents.

        Args:
            texts: The documents. A separator belongs to the document before it.
            separator: Between two documents.
            val: The validation text, or its documents, or the share of the joined text that is split off at its end.
        """
        joined, starts = separator.join(texts), _starts(texts, separator)
        if isinstance(val, str):
            return cls(joined, val, documents=starts)
        if not isinstance(val, float | int):
            return cls(joined, separator.join(val), documents=starts, val_documents=_starts(val, separator))
        splits = cls.of_text(joined, val)
        assert isinstance(splits.train, str)
        end = len(splits.train)
        in_val = (start - end for start in starts if start > end)
        return replace(splits, documents=tuple(each for each in starts if each < end), val_documents=(0, *in_val))


def _starts(texts: Sequence[str], separator: str) -> tuple[int, ...]:
    """The index of the first character of each document in the joined text; an empty one at its end has none."""
    *starts, end = accumulate((len(text) + len(separator) for text in texts), initial=0)
    return tuple(start for start in starts if start < end - len(separator))


class Dataset(ABC):
    """A source of text, or of Sequences for a synthetic task. Constructor: `(*, ...)`."""

    remote: ClassVar[RemoteFile | None] = None
    """The file that it downloads, if any; `minigpt data` lists, downloads and adds it."""

    @abstractmethod
    def load(self) -> Splits:
        """Read or generate the data; the same splits every time.

        Raises:
            DataError: The data is missing or damaged; the message has the next step.
        """
