"""The validation loss in blocks of the text, and at each position in the window: what one pass over the split measures.

Blocks show how much a result depends on the piece of text (`minigpt.lab.statistics.text`). They are the documents, if there
are at least 20 of them, else runs of adjacent windows (or rows of a synthetic task).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
import torch
from jaxtyping import Integer
from pydantic import BaseModel, ConfigDict, Field, model_validator

from minigpt.contracts import Tokenizer, TokenRows
from minigpt.data import Corpus, tokenizer_fingerprint
from minigpt.experiment import Experiment
from minigpt.model import GPT
from minigpt.run.evaluation import micro_batch_size

BlockKind = Literal["documents", "windows", "rows"]

_MOST, _FEWEST_DOCUMENTS = 200, 20

_Count = Annotated[int, Field(ge=0)]


class Blocks(BaseModel):
    """Summed losses of one run in blocks of the validation text, in the order of the text.

    Attributes:
        kind: The parts of the text that a block is made of.
        starts: Where each block begins: the index of a character (documents), of a window or of a row.
        losses: Sum of the losses, in nats.
        targets: Number of targets.
        bytes: UTF-8 bytes of the targets; empty unless the blocks are documents.
        all_bytes: UTF-8 bytes of all targets; None for a synthetic task.
        tokenizer: Fingerprint of the tokenizer; None if there is none.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")

    kind: BlockKind
    starts: Annotated[tuple[_Count, ...], Field(min_length=1)]
    losses: tuple[float, ...]
    targets: tuple[_Count, ...]
    bytes: tuple[_Count, ...] = ()
    all_bytes: _Count | None
    tokenizer: str | None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        sizes = {len(self.losses), len(self.targets), len(self.bytes or self.losses)}
        if sizes != {len(self.starts)} or any(start >= end for start, end in pairwise(self.starts)):
            raise ValueError("blocks must begin one after another, with a value for each")
        return self


@dataclass(frozen=True)
class Measured:
    """What one pass over the validation split measures, in fp32.

    Attributes:
        position_loss: Mean loss at each of block_size positions in the window; None where no target counts. It shows how
            much earlier tokens help.
        blocks: Summed losses in blocks of the text.
    """

    position_loss: tuple[float | None, ...]
    blocks: Blocks


@torch.no_grad()
def measure(model: GPT, corpus: Corpus, experiment: Experiment) -> Measured:
    """Measure the validation loss, by position and by block of the text.

    Args:
        model: The model, in eval mode, on the CPU.
        corpus: The corpus, on the CPU.
        experiment: Gives the length of the window.
    """
    length = experiment.model.block_size
    kind, starts, first, sizes = _layout(corpus, length)
    at_positions, in_blocks = _Sums(length), _Sums(len(starts))
    done = 0
    for batch in corpus.val.windows(micro_batch_size(experiment, torch.device("cpu")), length):
        losses = model.target_losses(batch.tokens, batch.targets)
        counted = torch.ones_like(batch.targets, dtype=torch.bool) if batch.mask is None else batch.mask
        at_positions.add(torch.arange(losses.shape[1]).expand_as(losses), losses, counted)
        places = torch.arange(done, done + losses.numel())
        in_blocks.add(torch.searchsorted(first, places, right=True) - 1, losses, counted)
        done += losses.numel()
    means = (loss / count if count else None for loss, count in zip(at_positions.losses, at_positions.counts, strict=True))
    blocks = Blocks(
        kind=kind,
        starts=tuple(starts),
        losses=tuple(in_blocks.losses),
        targets=tuple(in_blocks.counts),
        bytes=sizes,
        all_bytes=corpus.val_bytes,
        tokenizer=tokenizer_fingerprint(corpus),
    )
    return Measured(tuple(means), blocks)


class _Sums:
    """Sums of losses, and numbers of targets, at a number of places."""

    def __init__(self, places: int):
        self._losses = torch.zeros(places, dtype=torch.float64)
        self._counts = torch.zeros(places, dtype=torch.int64)

    def add(self, places: torch.Tensor, losses: torch.Tensor, counted: torch.Tensor) -> None:
        """Add each loss at its place, if it counts."""
        self._losses.index_add_(0, places.flatten(), (losses.double() * counted).flatten())
        self._counts.index_add_(0, places.flatten(), counted.flatten().long())

    @property
    def losses(self) -> list[float]:
        return self._losses.tolist()

    @property
    def counts(self) -> list[int]:
        return self._counts.tolist()


def _layout(corpus: Corpus, length: int) -> tuple[BlockKind, list[int], torch.Tensor, tuple[int, ...]]:
    """The kind of blocks, where they begin, the first target of each in the order of evaluation, and their bytes."""
    if isinstance(corpus.val, TokenRows):
        rows, time = corpus.val.tokens.shape
        starts = _even(rows)
        return "rows", starts, time * torch.tensor(starts), ()
    if corpus.val_documents is not None and corpus.tokenizer is not None and corpus.val_bytes is not None:
        ids = corpus.val.ids.numpy()
        text = corpus.tokenizer.decode(ids)
        every = -(-len(corpus.val_documents) // _MOST)
        places = token_starts(corpus.tokenizer, text, ids, corpus.val_documents[::every])
        if len(places) >= _FEWEST_DOCUMENTS:
            starts, tokens = [start for start, _ in places], torch.tensor([token for _, token in places])
            sizes = [len(text[start:end].encode("utf-8", "surrogatepass")) for start, end in pairwise([*starts, len(text)])]
            sizes[0] -= sum(sizes) - corpus.val_bytes  # the first token is not predicted
            return "documents", starts, (tokens - 1).clamp(min=0), tuple(sizes)  # target i is token i + 1
    starts = _even(-(-corpus.val.n_targets // length))
    return "windows", starts, length * torch.tensor(starts), ()


def _even(parts: int) -> list[int]:
    """The first of the parts in each block, with as many blocks of nearly equal size as there may be."""
    blocks = min(parts, _MOST)
    return [number * parts // blocks for number in range(blocks)]


def token_starts(
    tokenizer: Tokenizer, text: str, ids: Integer[np.ndarray, " tokens"], starts: tuple[int, ...]
) -> list[tuple[int, int]]:
    """The first character and the first token of each document; a document that begins inside a token joins the one before.

    Args:
        tokenizer: Encodes each document separately. It ends with a token if its ids are the same as in the whole text.
        text: The whole text.
        ids: The whole text as ids.
        starts: The first character of each document.
    """
    places = [(0, 0)]
    for end in starts[1:]:
        start, token = places[-1]
        piece = np.asarray(tokenizer.encode(text[start:end]))
        if np.array_equal(ids[token : token + len(piece)], piece):
            places.append((end, token + len(piece)))
    return places
