"""A token for every byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from minigpt.components.tokenizer.utf8 import from_utf8, to_utf8
from minigpt.contracts import Tokenizer
from minigpt.registry import register


@register("tokenizer", "byte")
class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8: encodes any text, and learns nothing (ByT5: Xue et al. 2021, arXiv:2105.13626)."""

    def __init__(self) -> None:
        pass

    def fit(self, text: str) -> None:
        """Nothing to learn."""

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        return np.frombuffer(to_utf8(text), dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        return from_utf8(np.asarray(ids, dtype=np.uint8).tobytes())

    def n_bytes(self, ids: Sequence[int] | Int[np.ndarray, " tokens"], text: str) -> int:
        return len(ids)

    def to_json(self) -> dict[str, Any]:
        return {}

    def from_json(self, learned: dict[str, Any]) -> None:
        """Nothing was learned."""
