"""Text to tokens to batches.

The batch of an update is a pure function of (seed, update number). So resuming needs no position in a data stream, and
variants with the same seed see their data in the same order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from minigpt.components.dataset.overlap import rows_in_both, shifted_share, text_overlap
from minigpt.contracts import Sequences, Splits, Tokenizer
from minigpt.errors import DataError, TokenizerError, count
from minigpt.experiment import Experiment
from minigpt.system.memory import refuse_if_too_large

_REPORTED_SHARE = 0.05
"""A smaller share of the validation text that also occurs in training is not reported."""

_PAIR_BYTES = 32
"""Memory for each token: its id and the pair that it ends, three copies while pairs are sorted; 64 bits each."""

_MANY_CHARACTERS = 2000
"""Fewer characters of validation text may well repeat training text by chance."""


@dataclass(frozen=True)
class Batch:
    """Input of one forward pass.

    Attributes:
        tokens: Input ids.
        targets: The ids to predict.
        mask: Which targets count; None for all.
    """

    tokens: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"] | None = None

    @property
    def n_targets(self) -> int:
        """How many targets count."""
        return self.targets.numel() if self.mask is None else int(self.mask.sum())

    def split(self, size: int) -> Iterator[Batch]:
        """The batch in parts of `size` sequences."""
        for start in range(0, len(self.tokens), size):
            rows = slice(start, start + size)
            yield Batch(self.tokens[rows], self.targets[rows], None if self.mask is None else self.mask[rows])


@dataclass(frozen=True)
class TokenStream:
    """A split of text: one long row of ids."""

    ids: Int[Tensor, " tokens"]

    @property
    def n_targets(self) -> int:
        """Tokens that are predicted in an evaluation of the whole split: all except the first."""
        return len(self.ids) - 1

    def sample(self, rng: np.random.Generator, batch_size: int, block_size: int) -> Batch:
        """Windows that start anywhere, drawn with replacement."""
        starts = torch.from_numpy(rng.integers(0, len(self.ids) - block_size, batch_size)).to(self.ids.device)
        window = self.ids[starts[:, None] + torch.arange(block_size + 1, device=self.ids.device)].long()
        return Batch(window[:, :-1], window[:, 1:])

    def windows(self, batch_size: int, block_size: int) -> Iterator[Batch]:
        """The whole split in adjacent windows: every token except the first is predicted exactly once."""
        whole = self.n_targets // block_size * block_size
        tokens, targets = self.ids[:whole].view(-1, block_size), self.ids[1 : whole + 1].view(-1, block_size)
        for start in range(0, len(tokens), batch_size):
            yield Batch(tokens[start : start + batch_size].long(), targets[start : start + batch_size].long())
        if whole < self.n_targets:  # the last window is shorter
            yield Batch(self.ids[None, whole:-1].long(), self.ids[None, whole + 1 :].long())

    def to(self, device: torch.device) -> TokenStream:
        """The same split on a device."""
        return TokenStream(self.ids.to(device))


@dataclass(frozen=True)
class TokenRows:
    """A split of a synthetic task: separate rows with their own targets."""

    tokens: Int[Tensor, "rows time"]
    targets: Int[Tensor, "rows time"]
    mask: Bool[Tensor, "rows time"]

    @property
    def n_targets(self) -> int:
        """Number of targets that count."""
        return int(self.mask.sum())

    def sample(self, rng: np.random.Generator, batch_size: int, block_size: int) -> Batch:
        """Rows drawn with replacement."""
        rows = torch.from_numpy(rng.integers(0, len(self.tokens), batch_size)).to(self.tokens.device)
        return Batch(self.tokens[rows].long(), self.targets[rows].long(), self.mask[rows])

    def windows(self, batch_size: int, block_size: int) -> Iterator[Batch]:
        """All rows in order."""
        for start in range(0, len(self.tokens), batch_size):
            part = slice(start, start + batch_size)
            yield Batch(self.tokens[part].long(), self.targets[part].long(), self.mask[part])

    def to(self, device: torch.device) -> TokenRows:
        """The same split on a device."""
        return TokenRows(self.tokens.to(device), self.targets.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus.

    Attributes:
        train: The split that batches are drawn from.
        val: The split for evaluation, always used in full.
        vocab_size: Number of token ids.
        tokenizer: Fitted; None for a synthetic task.
        fingerprint: SHA-256 of both splits' content; for a synthetic task with shapes, dtypes and vocab_size.
        val_bytes: UTF-8 bytes of the validation tokens that are predicted; None for a synthetic task.
        notes: Lines that a user of the corpus should read.
    """

    train: TokenStream | TokenRows
    val: TokenStream | TokenRows
    vocab_size: int
    tokenizer: Tokenizer | None
    fingerprint: str
    val_bytes: int | None
    notes: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Corpus:
        """The same corpus with its ids on a device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))


def train_batch(corpus: Corpus, experiment: Experiment, step: int) -> Batch:
    """The batch of update `step` (from 0): the same for every model with the same data, seed and sizes."""
    rng = np.random.Generator(np.random.Philox(key=[experiment.seed, step]))
    return corpus.train.sample(rng, experiment.training.batch_size, experiment.model.block_size)


def sequence_length(corpus: Corpus, experiment: Experiment) -> int:
    """The number of tokens in each training sequence: block_size for text, the length of the rows for rows."""
    return experiment.model.block_size if isinstance(corpus.train, TokenStream) else corpus.train.tokens.shape[1]


def load_corpus(experiment: Experiment, learned: dict[str, Any] | None = None) -> Corpus:
    """Load an experiment's data and fit its tokenizer.

    Args:
        experiment: Names the dataset and the tokenizer.
        learned: A result of the tokenizer's `to_json`, used instead of fitting.

    Raises:
        DataError: The corpus is not available, or too small for one window.
        TokenizerError: The tokenizer cannot encode the corpus.
    """
    splits = experiment.data.build().load()
    block_size = experiment.model.block_size
    if isinstance(splits.train, Sequences) and isinstance(splits.val, Sequences):
        return _synthetic(splits, splits.train, splits.val, block_size)
    if not isinstance(splits.train, str) or not isinstance(splits.val, str):
        kinds = f"{type(splits.train).__name__} for training and {type(splits.val).__name__} for validation"
        raise DataError(f"data: {experiment.data.name} returns {kinds}; allowed: text for both, or Sequences for both")
    notes = (*splits.notes, *_common_text(splits.train, splits.val))
    if learned is None:
        tokenizer = experiment.tokenizer.build()
        tokenizer.fit(splits.train if tokenizer.fits_on == "train" else splits.train + splits.val)
    else:
        tokenizer = restore_tokenizer(experiment, learned)
    train, val = (_encode(tokenizer, text, name) for text, name in ((splits.train, "training"), (splits.val, "validation")))
    for ids, name, least in ((train, "training", block_size + 1), (val, "validation", 2)):
        if len(ids) < least:
            raise DataError(
                f"the {name} split has {count(len(ids), 'token')}; at least {least} are needed "
                "(model.block_size + 1 for training): use more text, or a smaller block_size"
            )
    digest = hashlib.sha256()
    for text in (splits.train, splits.val):
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    val_bytes = len(splits.val.encode("utf-8", "surrogatepass")) - tokenizer.n_bytes(val[:1].tolist(), splits.val)
    return Corpus(
        TokenStream(train), TokenStream(val), tokenizer.vocab_size, tokenizer, digest.hexdigest(), val_bytes, notes
    )


def _common_text(train: str, val: str) -> list[str]:
    """A line about the share of the validation text that also occurs in training, unless it is small.

    Raises:
        DataError: Nearly all of it occurs in training, and not because it repeats itself.
    """
    overlap = text_overlap(train, val)
    if overlap.shared < _REPORTED_SHARE:
        return []
    line = f"{overlap.shared:.0%} of the validation text, in {overlap.pieces}, is in the training text too"
    if overlap.is_copy and len(val) >= _MANY_CHARACTERS:
        raise DataError(f"data: {line}; leave out the copies")
    return [line]


def _common_rows(train: Sequences, val: Sequences) -> list[str]:
    """Lines about validation rows that are training rows too, as a whole or shifted."""
    common, shifted = rows_in_both(train, val), shifted_share(train, val)
    lines = [f"{len(common):,} of {count(len(val.tokens), 'validation row')} are training rows too"] if common else []
    if shifted >= _REPORTED_SHARE:
        lines.append(f"{shifted:.0%} of the validation rows' targets are in training rows too, at other places of the rows")
    return lines


def restore_tokenizer(experiment: Experiment, learned: dict[str, Any]) -> Tokenizer:
    """The experiment's tokenizer, with the learned values of an earlier one.

    Raises:
        TokenizerError: The learned values are damaged.
    """
    tokenizer = experiment.tokenizer.build()
    try:
        tokenizer.from_json(learned)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TokenizerError(f"the learned values of the tokenizer are damaged: {type(error).__name__}: {error}") from error
    return tokenizer


def tokenizer_fingerprint(corpus: Corpus) -> str | None:
    """SHA-256 of the tokenizer's learned values."""
    if corpus.tokenizer is None:
        return None
    return hashlib.sha256(json.dumps(corpus.tokenizer.to_json(), sort_keys=True).encode()).hexdigest()


def _encode(tokenizer: Tokenizer, text: str, name: str) -> Int[Tensor, " tokens"]:
    try:
        ids = tokenizer.encode(text)
    except TokenizerError as error:
        raise TokenizerError(f"the {name} split: {error}") from error
    ids = np.asarray(ids)
    if len(ids) and not (ids.min() >= 0 and ids.max() < tokenizer.vocab_size):
        raise TokenizerError(
            f"the {name} split: ids from {ids.min()} to {ids.max()}, but the vocab_size is {tokenizer.vocab_size}"
        )
    return torch.from_numpy(ids.astype(np.int32))


def _synthetic(splits: Splits, train: Sequences, val: Sequences, block_size: int) -> Corpus:
    digest = hashlib.sha256()
    places = []
    for rows, name in ((train, "training"), (val, "validation")):
        if rows.tokens.shape != rows.targets.shape or rows.tokens.shape != rows.mask.shape:
            raise DataError(f"data: tokens, targets and mask of the {name} split differ in shape")
        if not len(rows.tokens) or not rows.mask.any():
            raise DataError(f"data: the {name} split has no target that counts")
        if rows.tokens.shape[1] > block_size:
            raise DataError(f"data: rows of {rows.tokens.shape[1]} tokens are longer than model.block_size {block_size}")
        for array in (rows.tokens, rows.targets, rows.mask):
            digest.update(f"{array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        tensors = (torch.from_numpy(np.asarray(array)) for array in (rows.tokens, rows.targets, rows.mask))
        places.append(TokenRows(*tensors))
    if splits.vocab_size is None:
        raise DataError("data: rows without vocab_size, and no tokenizer to set it; return Splits(train, val, vocab_size)")
    digest.update(f"vocab_size {splits.vocab_size}".encode())
    largest = 1 + max(int(max(rows.tokens.max(), rows.targets.max())) for rows in (train, val))
    smallest = min(int(min(rows.tokens.min(), rows.targets.min())) for rows in (train, val))
    if smallest < 0 or largest > splits.vocab_size:
        raise DataError(f"data: ids from {smallest} to {largest - 1}, but vocab_size is {splits.vocab_size}")
    notes = (*splits.notes, *_common_rows(train, val))
    return Corpus(places[0], places[1], splits.vocab_size, None, digest.hexdigest(), None, notes)


def entropies(corpus: Corpus) -> dict[str, float] | None:
    """Reference losses in nats per token: a uniform guess, token frequencies, frequencies after a token.

    `unigram` is H(x_t) and `bigram` H(x_t | x_(t-1)) by counts in the training split itself (Shannon 1948). None for a
    synthetic task.
    """
    if not isinstance(corpus.train, TokenStream):
        return None
    refuse_if_too_large("counting pairs of the training tokens", _PAIR_BYTES * len(corpus.train.ids))
    ids = corpus.train.ids.cpu().numpy().astype(np.int64)
    unigram = _entropy(np.bincount(ids))
    pairs = _entropy(np.unique(ids[:-1] * corpus.vocab_size + ids[1:], return_counts=True)[1])
    first = _entropy(np.bincount(ids[:-1]))
    return {"uniform": float(np.log(corpus.vocab_size)), "unigram": unigram, "bigram": pairs - first}


def _entropy(counts: Int[np.ndarray, " symbols"]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
