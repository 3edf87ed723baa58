"""Unigram pieces and their sampling: a tokenizer, and a batching that cuts its text anew for each update."""

import re
from collections import Counter
from typing import Annotated

import numpy as np
from pydantic import Field

from minigpt.components.batching.windows import Windows
from minigpt.components.tokenizer.utf8 import from_utf8, to_utf8
from minigpt.contracts import Batch, Tokenizer
from minigpt.errors import DataError
from minigpt.registry import register

Size = Annotated[int, Field(ge=256, le=1 << 16, examples=[300])]
Power = Annotated[float, Field(gt=0, le=1)]

_WORDS = re.compile(rb" ?\S{1,16}|\s{1,16}")  # short: no probability of a word is too small for a float
_BYTES, _LONGEST = [bytes([value]) for value in range(256)], 8


@register("tokenizer", "unigram")
class Unigram(Tokenizer):
    """Pieces with a probability each; a word is cut where their product is largest (Kudo 2018, arXiv:1804.10959).

    Rounds of expectation maximisation over all cuts of each word begin with all its parts. Each keeps the likeliest pieces.

    Args:
        vocab_size: Number of pieces, at most; every byte is one.
        power: The batching unigram_sampling draws cuts with a probability proportional to p(cut)^power.
    """

    def __init__(self, *, vocab_size: Size = 1024, power: Power = 0.5):
        self.longer, self.power, self.p = vocab_size - 256, power, dict.fromkeys(_BYTES, 1.0)

    def fit(self, text):
        words = Counter(_WORDS.findall(to_utf8(text)))
        self.p = {word[s:e]: 1.0 for word in words for e in range(1, len(word) + 1) for s in range(max(0, e - _LONGEST), e)}
        for left in (1, 0.75, 0.5, 0.25, 0):
            counts = Counter()  # how often each piece is expected, over all cuts
            for word, times in words.items():
                reached = [*[0.0] * len(word), times]
                for end, shares in reversed([*enumerate(self._shares(word))]):
                    for start, share in shares.items():
                        counts[word[start:end]] += reached[end] * share
                        reached[start] += reached[end] * share
            kept = [*_BYTES, *[piece for piece, _ in counts.most_common() if len(piece) > 1][: round(self.longer * 8**left)]]
            total = sum(counts[piece] + 0.5 for piece in kept)
            self.p = {piece: (counts[piece] + 0.5) / total for piece in kept}

    def _shares(self, word, power=1.0, join=sum):
        """For each end of a piece, the share of its possible starts in what `join` makes of all cuts up to there."""
        ways, shares = [1.0], [{}]
        for end in range(1, len(word) + 1):
            starts = [start for start in range(max(0, end - _LONGEST), end) if word[start:end] in self.p]
            each = [ways[start] * self.p[word[start:end]] ** power for start in starts]
            ways.append(join(each))
            shares.append({start: way / ways[end] for start, way in zip(starts, each, strict=True)})
        return shares

    def encode(self, text, rng=None):
        ids, found = {piece: index for index, piece in enumerate(self.p)}, []
        for word in reversed(_WORDS.findall(to_utf8(text))):
            shares, end = self._shares(word, *((self.power, sum) if rng else (1.0, max))), len(word)
            while end:
                of, last = shares[end], end
                end = rng.choice([*of], p=[*of.values()]) if rng else max(of, key=of.get)
                found.append(ids[word[end:last]])
        return np.array(found[::-1], dtype=np.int64)

    @property
    def vocab_size(self):
        return len(self.p)

    def decode(self, ids):
        return from_utf8(b"".join(map([*self.p].__getitem__, ids)))

    def to_json(self):
        return {"pieces": [[piece.decode("latin-1"), p] for piece, p in self.p.items()], "power": self.power}

    def from_json(self, learned):
        self.p = {text.encode("latin-1"): float(p) for text, p in learned["pieces"]}


@register("batching", "unigram_sampling")
class UnigramSampling(Windows):
    """Windows whose text is cut anew for each update, at random."""

    keeps_order = False

    def batch(self, source, draw):
        tokenizer, drawn, rng, length = source.tokenizer, super().batch(source, draw), draw.rng(), draw.block_size + 1
        if not isinstance(tokenizer, Unigram):
            raise DataError("batching: unigram_sampling needs the tokenizer unigram")
        cuts = [tokenizer.encode(tokenizer.decode(ids), rng).tolist()[:length] for ids in drawn.tokens.tolist()]
        rows = drawn.tokens.new_tensor([cut + [-1] * (length - len(cut)) for cut in cuts])
        return Batch(rows[:, :-1].clamp(min=0), rows[:, 1:].clamp(min=0), rows[:, 1:] >= 0)
