"""Tokenizers fitted on a text, and the texts of their tokens."""

from __future__ import annotations

from typing import Any

from minigpt.contracts import Tokenizer
from minigpt.registry import REGISTRY


def fitted(name: str, text: str, **params: Any) -> Tokenizer:
    tokenizer = REGISTRY.resolve("tokenizer", {"name": name, **params}).build()
    assert isinstance(tokenizer, Tokenizer)
    tokenizer.fit(text)
    return tokenizer


def tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text of each token."""
    return [tokenizer.decode([token]) for token in tokenizer.encode(text).tolist()]
