"""Contract of batchings, what they draw from, and the batches that they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer
from torch import Tensor

from minigpt.contracts.text import Tokenizer


@dataclass(frozen=True)
class Batch:
    """Input of one forward pass.

    Attributes:
        tokens: Input ids.
        targets: The ids to predict.
        mask: Which targets count; None for all.
        segments: A token attends only to tokens with the same number; None if each row is one segment. With `memory`, they
            begin with the segments of the earlier tokens.
        memory: Earlier tokens of each row, which the model reads first, without gradients; None for none.
        positions: What an absolute position (`Position.embed`) sees instead of the places in the row: below block_size, and
            ascending by one in each segment. None for the places. With `memory`, they begin with its positions.
    """

    tokens: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"] | None = None
    segments: Int[Tensor, "batch all"] | None = None
    memory: Int[Tensor, "batch earlier"] | None = None
    positions: Int[Tensor, "batch all"] | None = None

    @property
    def n_targets(self) -> int:
        """How many targets count."""
        return self.targets.numel() if self.mask is None else int(self.mask.sum())

    @property
    def inputs(self) -> tuple[Tensor, Tensor, *tuple[Tensor | None, ...]]:
        """The arguments of `GPT.loss`."""
        return self.tokens, self.targets, self.mask, self.segments, self.memory, self.positions

    def split(self, size: int) -> Iterator[Batch]:
        """The batch in parts of `size` sequences."""
        for start in range(0, len(self.tokens), size):
            rows = slice(start, start + size)
            others = (None if part is None else part[rows] for part in self.inputs[2:])
            yield Batch(self.tokens[rows], self.targets[rows], *others)


@dataclass(frozen=True)
class TokenStream:
    """A split of text: one long row of ids.

    Attributes:
        ids: The ids, usually int32.
        starts: The first token of each document, beginning with 0; None if no batching asked for documents.
    """

    ids: Int[Tensor, " tokens"]
    starts: Int[Tensor, " documents"] | None = None

    @property
    def n_targets(self) -> int:
        """Tokens that are predicted in an evaluation of the whole split: all except the first."""
        return len(self.ids) - 1

    def at(self, starts: Int[Tensor, " batch"] | Int[np.ndarray, " batch"], length: int) -> Batch:
        """Windows of `length` tokens and their targets, which begin at these tokens."""
        places = torch.as_tensor(starts, device=self.ids.device)[:, None]
        window = self.ids[places + torch.arange(length + 1, device=self.ids.device)].long()
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
        return TokenStream(self.ids.to(device), None if self.starts is None else self.starts.to(device))


@dataclass(frozen=True)
class TokenRows:
    """A split of a synthetic task: separate rows with their own targets."""

    tokens: Integer[Tensor, "rows time"]
    targets: Integer[Tensor, "rows time"]
    mask: Bool[Tensor, "rows time"]

    @property
    def n_targets(self) -> int:
        """Number of targets that count."""
        return int(self.mask.sum())

    def at(self, rows: Int[Tensor, " batch"] | Int[np.ndarray, " batch"]) -> Batch:
        """These rows."""
        places = torch.as_tensor(rows, device=self.tokens.device)
        return Batch(self.tokens[places].long(), self.targets[places].long(), self.mask[places])

    def windows(self, batch_size: int, block_size: int) -> Iterator[Batch]:
        """All rows in order."""
        for start in range(0, len(self.tokens), batch_size):
            part = slice(start, start + batch_size)
            yield Batch(self.tokens[part].long(), self.targets[part].long(), self.mask[part])

    def to(self, device: torch.device) -> TokenRows:
        """The same split on a device."""
        return TokenRows(self.tokens.to(device), self.targets.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Source:
    """What batches are drawn from.

    Attributes:
        data: The training split: a stream of text, or the rows of a synthetic task.
        vocab_size: Number of token ids.
        tokenizer: Fitted; None for a synthetic task.
    """

    data: TokenStream | TokenRows
    vocab_size: int
    tokenizer: Tokenizer | None


@dataclass(frozen=True)
class Draw:
    """Which batch is asked for.

    Attributes:
        seed: Seed of the experiment.
        step: Number of the update, from 0.
        max_iters: Updates of the whole training.
        batch_size: Sequences in an update, as the experiment says.
        block_size: Longest sequence, in tokens; for a synthetic task the length of its rows.
    """

    seed: int
    step: int
    max_iters: int
    batch_size: int
    block_size: int

    @property
    def progress(self) -> float:
        """Share of the updates that are done: 0 for the first, below 1 for the last."""
        return self.step / self.max_iters

    def rng(self) -> np.random.Generator:
        """Random numbers that depend on the seed and the step alone."""
        return np.random.Generator(np.random.Philox(key=[self.seed, self.step]))


@dataclass(frozen=True)
class BatchShape:
    """The size of a batch.

    Attributes:
        sequences: Number of rows.
        length: Tokens in each.
        memory: Earlier tokens of each row, if their number differs between updates.
    """

    sequences: int
    length: int
    memory: int = 0

    @property
    def n_tokens(self) -> int:
        """How many tokens are trained."""
        return self.sequences * self.length


class Batching(ABC):
    """Which tokens an update sees. Constructor: `(*, ...)`.

    A batch is a function of `batch`'s arguments alone. So resuming needs no position in the data, and variants with equal
    seeds see the same batches.
    """

    uses_documents: bool = False
    """Whether it needs to know where documents begin: `TokenStream.starts`. Each document is then encoded separately."""

    keeps_order: ClassVar[bool] = True
    """Whether each target that counts is the token that follows its input in the data."""

    @abstractmethod
    def batch(self, source: Source, draw: Draw) -> Batch:
        """The batch of one update: at most batch_size * block_size tokens, in sequences of at most block_size.

        Raises:
            DataError: It cannot draw from such data.
        """

    def shape(self, draw: Draw) -> BatchShape:
        """The size of the batch, without drawing it. Updates of the same shape are counted and timed as one kind."""
        return BatchShape(draw.batch_size, draw.block_size)
