"""Byte-pair encoding: a token for every frequent sequence of bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field

from minigpt.components.tokenizer.utf8 import from_utf8, to_utf8
from minigpt.contracts import Tokenizer
from minigpt.registry import register

# As published: in GPT-2's encoder.py, and for cl100k_base in tiktoken's openai_public.py.
_PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_BYTES = [bytes([byte]) for byte in range(256)]
# A million spaces in a row overflow the packages' backtracking stack. Both patterns cut where white space follows a letter
# or a digit, so cutting there beforehand changes nothing. Only a run without such a place is cut elsewhere.
_STRETCHES = re.compile(r"(?s).{1,262144}(?:\Z|(?<=[^\W_])(?=\s))|.{1,262144}")


@register("tokenizer", "bpe")
class BytePairTokenizer(Tokenizer):
    """Byte-level BPE: repeatedly merges the most frequent pair of neighbours into a token (Sennrich et al. 2016).

    arXiv:1508.07909, on the bytes of UTF-8 as in GPT-2 (Radford et al. 2019, section 2.2), so it encodes any text without
    loss. A pattern first cuts the text into pieces, and no token crosses a cut. Overlapping pairs count separately
    (`aaa` has two `aa`). Of equally frequent pairs the one with the lower ids is merged, left id first. rustbpe learns the
    merges, tiktoken applies them: pip install 'minigpt-lab[bpe]'.

    Ids are the 256 bytes, the merged tokens in order of merging, then special tokens. A lone surrogate is not merged with
    other text; its three bytes encode it.

    Args:
        vocab_size: Total number of ids, including special tokens. A text with too few pairs to merge gives fewer ids.
        pattern: How text is cut. gpt4 is the pattern of cl100k_base: up to three digits in a piece, new lines apart from
            spaces, contractions in upper case too.
        special_tokens: Texts with one id each. None by default: all text is ordinary. A special token is encoded as its id
            wherever it occurs in a text, as with tiktoken's allowed_special; merges neither see nor cross it.
    """

    def __init__(
        self,
        *,
        vocab_size: Annotated[int, Field(ge=256, le=2**20)] = 1024,
        pattern: Literal["gpt2", "gpt4"] = "gpt4",
        special_tokens: list[str] = [],  # noqa: B006 - read only
    ):
        _check_special_tokens(special_tokens)
        self.max_merges = vocab_size - len(_BYTES) - len(special_tokens)
        if self.max_merges < 0:
            least = len(_BYTES) + len(special_tokens)
            raise ValueError(f"vocab_size {vocab_size} is too small; at least {least}: 256 bytes and the special tokens")
        self.pattern, self.special_tokens = pattern, special_tokens
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self._apart = re.compile("(" + "|".join([*map(re.escape, longest_first), "[\ud800-\udfff]"]) + ")")
        try:
            import rustbpe  # type: ignore[import-untyped] # noqa: F401
            import tiktoken  # noqa: F401
        except ImportError as error:
            raise ValueError(f"needs rustbpe and tiktoken: pip install 'minigpt-lab[bpe]' ({error})") from error
        self._learn([])

    def _learn(self, merged: list[bytes]) -> None:
        import tiktoken

        self._merged = merged
        ranks = {token: rank for rank, token in enumerate([*_BYTES, *merged])}
        self._special = {text: len(ranks) + index for index, text in enumerate(self.special_tokens)}
        self._bytes = [*ranks, *map(to_utf8, self.special_tokens)]
        self._ordinary = tiktoken.Encoding("bpe", pat_str=_PATTERNS[self.pattern], mergeable_ranks=ranks, special_tokens={})

    def fit(self, text: str) -> None:
        import rustbpe

        ordinary = (part for part, apart in self._parts(text) if not apart)
        trainer = rustbpe.Tokenizer()
        trainer.train_from_iterator(ordinary, len(_BYTES) + self.max_merges, pattern=_PATTERNS[self.pattern])
        self._learn([bytes(token) for token, _ in trainer.get_mergeable_ranks()[len(_BYTES) :]])

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        ids: list[int] = []
        for part, apart in self._parts(text):
            if not apart:
                ids += self._ordinary.encode_ordinary(part)
            elif part in self._special:
                ids.append(self._special[part])
            else:
                ids += to_utf8(part)  # a byte's id is its value
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        return from_utf8(b"".join(self._bytes[token] for token in ids))

    def n_bytes(self, ids: Sequence[int] | Int[np.ndarray, " tokens"], text: str) -> int:
        return sum(len(self._bytes[token]) for token in ids)

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Cut a text into ordinary text and separate parts: special tokens and lone surrogates."""
        for index, part in enumerate(self._apart.split(text)):
            if index % 2:
                yield part, True
            else:
                yield from ((stretch, False) for stretch in _STRETCHES.findall(part))

    def to_json(self) -> dict[str, Any]:
        return {
            "pattern": _PATTERNS[self.pattern],
            "merged": [token.decode("latin-1") for token in self._merged],  # one character per byte, by rank from 256
            "special_tokens": self.special_tokens,
        }

    def from_json(self, learned: dict[str, Any]) -> None:
        for key, own in (("pattern", _PATTERNS[self.pattern]), ("special_tokens", self.special_tokens)):
            if learned[key] != own:
                raise ValueError(f"{key} is {learned[key]!r}, but the experiment has {own!r}")
        texts = learned["merged"]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("merged is not a list of texts")
        if len(texts) > self.max_merges:
            raise ValueError(f"{len(texts)} merges, but vocab_size leaves room for {self.max_merges}")
        known, lengths = set(_BYTES), {1}
        merged = []
        for rank, text in enumerate(texts, len(_BYTES)):
            if not text or max(text) > "\xff":
                raise ValueError(f"token {rank}, {text!r}, is not written as bytes")
            token = text.encode("latin-1")
            if token in known:
                raise ValueError(f"token {rank}, {text!r}, occurs twice")
            if not any(token[:cut] in known and token[cut:] in known for cut in lengths):
                raise ValueError(f"token {rank}, {text!r}, is not made of two earlier ones")
            known.add(token)
            lengths.add(len(token))
            merged.append(token)
        self._learn(merged)


def _check_special_tokens(texts: list[str]) -> None:
    for text in texts:
        if not text:
            raise ValueError("special_tokens: a special token must not be empty")
        if texts.count(text) > 1:
            raise ValueError(f"special_tokens: {text!r} occurs twice")
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"special_tokens: {text!r} has half a character, which no file can store")
