"""Text to tokens to batches.

The batch of an update is a pure function of the data, the seed and the update's number. So resuming needs no position in a
data stream, and variants with the same seed see their data in the same order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from minigpt.components.dataset.overlap import text_overlap
from minigpt.components.dataset.rows import rows_in_both, shifted_share
from minigpt.contracts import Batch, Draw, Sequences, Source, Splits, Tokenizer, TokenRows, TokenStream
from minigpt.errors import DataError, TokenizerError, count
from minigpt.experiment import Experiment
from minigpt.system.memory import refuse_if_too_large

_REPORTED_SHARE = 0.05
"""A smaller share of the validation text that also occurs in training is not reported."""

_PAIR_BYTES = 32
"""Memory for each token: its id and the pair that it ends, three copies while pairs are sorted; 64 bits each."""

_COUNTED_UPDATES = 10_000
"""Updates whose tokens are counted one by one."""

_MANY_CHARACTERS = 2000
"""Fewer characters of validation text may well repeat training text by chance."""


_PIECE = 1 << 20
"""Characters that are encoded at once."""


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus.

    Attributes:
        train: The split that batches are drawn from.
        val: The split for evaluation, always used in full.
        vocab_size: Number of token ids.
        tokenizer: Fitted; None for a synthetic task without an alphabet.
        fingerprint: SHA-256 of both splits' content; for a synthetic task with shapes, dtypes and vocab_size.
        val_bytes: UTF-8 bytes of the validation tokens that are predicted; None for a synthetic task.
        notes: Lines that a user of the corpus should read.
        documents: SHA-256 of where documents begin; None unless the batching uses it.
        val_documents: Index of the first character of each document of the validation text; None if it is not known.
    """

    train: TokenStream | TokenRows
    val: TokenStream | TokenRows
    vocab_size: int
    tokenizer: Tokenizer | None
    fingerprint: str
    val_bytes: int | None
    notes: tuple[str, ...] = ()
    documents: str | None = None
    val_documents: tuple[int, ...] | None = None

    @property
    def device(self) -> torch.device:
        """The device of the ids."""
        return self.val.ids.device if isinstance(self.val, TokenStream) else self.val.tokens.device

    def to(self, device: torch.device) -> Corpus:
        """The same corpus with its ids on a device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))


def train_batch(corpus: Corpus, experiment: Experiment, step: int) -> Batch:
    """The batch of update `step` (from 0): the same for every model with the same data, seed, batching and sizes."""
    source = Source(corpus.train, corpus.vocab_size, corpus.tokenizer)
    return experiment.training.batching.build().batch(source, _draw(experiment, step, sequence_length(corpus, experiment)))


def _draw(experiment: Experiment, step: int, length: int) -> Draw:
    training = experiment.training
    return Draw(experiment.seed, step, training.max_iters, training.batch_size, length)


def tokens_trained(experiment: Experiment, length: int | None = None, first_step: int = 0) -> int:
    """Tokens of all updates; of more than 10,000 updates, computed from 10,000 of them.

    Args:
        experiment: Gives the batching and the sizes.
        length: The longest training sequence (`sequence_length`); None takes block_size.
        first_step: Updates before it are not counted.
    """
    batching, updates = experiment.training.batching.build(), experiment.training.max_iters - first_step
    length = length or experiment.model.block_size
    steps = _counted_steps(updates, first_step)
    return sum(batching.shape(_draw(experiment, step, length)).n_tokens for step in steps) * updates // max(1, len(steps))


def _counted_steps(updates: int, first_step: int = 0) -> list[int]:
    counted = min(updates, _COUNTED_UPDATES)
    return [first_step + number * updates // counted for number in range(counted)]


@dataclass(frozen=True)
class Alike:
    """Updates of one shape, or of nearly the same.

    Attributes:
        steps: The updates of their middle shape, in order; of more than 10,000 updates of a training, some of them.
        share: Share of the group among all updates.
        tokens: Mean tokens of the group's batches.
    """

    steps: Sequence[int]
    share: float
    tokens: float

    def weight(self, batch: Batch) -> float:
        """The weight of a batch of the middle shape in the mean update: costs are mostly proportional to tokens."""
        return self.share * self.tokens / batch.tokens.numel()


def alike_updates(experiment: Experiment, length: int | None = None, *, most: int) -> list[Alike]:
    """All updates, grouped by the shape of their batches; most batchings have one.

    Args:
        experiment: Gives the batching and the sizes.
        length: The longest training sequence (`sequence_length`); None takes block_size.
        most: Number of groups. If there are more shapes, neighbouring ones share a group.
    """
    batching, steps = experiment.training.batching.build(), _counted_steps(experiment.training.max_iters)
    of_shape: dict[tuple[int, int, int], list[int]] = {}
    for step in steps:
        shape = batching.shape(_draw(experiment, step, length or experiment.model.block_size))
        of_shape.setdefault((shape.length, shape.memory, shape.sequences), []).append(step)
    shapes = sorted(of_shape)
    each = -(-len(shapes) // most)
    return [_alike(of_shape, shapes[start : start + each], len(steps)) for start in range(0, len(shapes), each)]


def _alike(of_shape: dict[tuple[int, int, int], list[int]], shapes: Sequence[tuple[int, int, int]], total: int) -> Alike:
    ordered = [shape for shape in shapes for _ in of_shape[shape]]
    tokens = sum(length * sequences for length, _, sequences in ordered)
    return Alike(of_shape[ordered[len(ordered) // 2]], len(ordered) / total, tokens / len(ordered))


def sequence_length(corpus: Corpus, experiment: Experiment) -> int:
    """The longest training sequence, in tokens: block_size for text, the length of the rows for rows."""
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
        rows = _synthetic(splits, splits.train, splits.val, block_size)
        return replace(rows, tokenizer=_of_alphabet(experiment, splits, learned))
    if not isinstance(splits.train, str) or not isinstance(splits.val, str):
        kinds = f"{type(splits.train).__name__} for training and {type(splits.val).__name__} for validation"
        raise DataError(f"data: {experiment.data.name} returns {kinds}; allowed: text for both, or Sequences for both")
    notes = (*splits.notes, *_common_text(splits.train, splits.val))
    if learned is None:
        tokenizer = experiment.tokenizer.build()
        tokenizer.fit(splits.train if tokenizer.fits_on == "train" else splits.train + splits.val)
    else:
        tokenizer = restore_tokenizer(experiment, learned)
    documents = _documents(experiment, splits)
    train = _encode_documents(tokenizer, splits.train, documents)
    val = _encode(tokenizer, splits.val, "validation")
    for ids, name, least in ((train.ids, "training", block_size + 1), (val, "validation", 2)):
        if len(ids) < least:
            raise DataError(
                f"the {name} split has {count(len(ids), 'token')}; at least {least} are needed "
                "(model.block_size + 1 for training): use more text, or a smaller block_size"
            )
    digest = hashlib.sha256(_sha256(splits.train) + _sha256(splits.val))
    val_bytes = sum(map(len, _utf8(splits.val))) - tokenizer.n_bytes(val[:1].tolist(), splits.val)
    return Corpus(
        train,
        TokenStream(val),
        tokenizer.vocab_size,
        tokenizer,
        digest.hexdigest(),
        val_bytes,
        notes,
        documents=None if documents is None else hashlib.sha256(str(documents).encode()).hexdigest(),
        val_documents=_checked_documents(experiment, splits.val_documents, splits.val),
    )


def _utf8(text: str) -> Iterator[bytes]:
    """The bytes of a text in pieces, so that there is no second copy of a large one."""
    return (text[start : start + _PIECE].encode("utf-8", "surrogatepass") for start in range(0, len(text), _PIECE))


def _sha256(text: str) -> bytes:
    digest = hashlib.sha256()
    for piece in _utf8(text):
        digest.update(piece)
    return digest.digest()


def _of_alphabet(experiment: Experiment, splits: Splits, learned: dict[str, Any] | None) -> Tokenizer | None:
    """The tokenizer of a synthetic task whose ids can be shown as text.

    Raises:
        DataError: It has another number of ids than the task.
    """
    if splits.alphabet is None:
        return None
    if learned is not None:
        return restore_tokenizer(experiment, learned)
    tokenizer = experiment.tokenizer.build()
    tokenizer.fit(splits.alphabet)
    if tokenizer.vocab_size != splits.vocab_size:
        raise DataError(
            f"data: {experiment.data.name} has {splits.vocab_size} ids, but the tokenizer {experiment.tokenizer.name} has "
            f"{tokenizer.vocab_size} for its alphabet; choose another tokenizer"
        )
    return tokenizer


def _documents(experiment: Experiment, splits: Splits) -> tuple[int, ...] | None:
    """Where the documents of the training text begin, in characters; None if the batching does not ask.

    Raises:
        DataError: The dataset does not say, or what it says is wrong.
    """
    batching = experiment.training.batching
    if not batching.build().uses_documents:
        return None
    if splits.documents is None:
        raise DataError(
            f"data: {experiment.data.name} does not say where documents begin, which training.batching {batching.name} needs"
        )
    assert isinstance(splits.train, str)
    return _checked_documents(experiment, splits.documents, splits.train)


def _checked_documents(experiment: Experiment, starts: tuple[int, ...] | None, text: str) -> tuple[int, ...] | None:
    """Where the documents of a text begin, in characters; None if it is not known.

    Raises:
        DataError: What the dataset says is wrong.
    """
    if starts is not None and (starts[:1] != (0,) or any(start >= end for start, end in pairwise((*starts, len(text))))):
        raise DataError(f"data: the documents of {experiment.data.name} must begin at 0, increase, and end with the text")
    return starts


def _encode_documents(tokenizer: Tokenizer, text: str, documents: Sequence[int] | None) -> TokenStream:
    """The training text as ids; each document is encoded separately, so that no token crosses a boundary."""
    if documents is None:
        return TokenStream(_encode(tokenizer, text, "training"))
    pieces = [_encode(tokenizer, text[start:end], "training") for start, end in pairwise((*documents, len(text)))]
    starts = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
    return TokenStream(torch.cat(pieces), torch.from_numpy(starts))


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
