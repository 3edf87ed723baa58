"""Decoding token by token from a state: sampling, streaming, stop strings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from minigpt.contracts import ModelState, Sampler, Tokenizer
from minigpt.errors import DivergedError, TokenizerError
from minigpt.experiment import SamplingSection
from minigpt.kernels.fused import upcast
from minigpt.model.gpt import GPT
from minigpt.model.guessing import Guesses

_UNFINISHED = "\ufffd"  # a tokenizer returns it for bytes that are not a complete character


def sample_ids(
    model: GPT,
    prompt: Sequence[int],
    sampler: Sampler,
    max_new_tokens: int,
    *,
    num_samples: int = 1,
    seed: int = 0,
    read_ahead: bool = True,
) -> Iterator[Int[np.ndarray, " samples"]]:
    """Draw `max_new_tokens` tokens for each of `num_samples` continuations, decoded as one batch.

    A model whose state does not grow (`GPT.decodes_without_end`) decodes without a limit. For others the context is the last
    block_size tokens. When it is full, decoding restarts from its last half. So each token costs a forward pass of one
    token, and every half context a pass of half a context.

    A single continuation reads ahead if its state is a plain cache: the tokens that followed the same three tokens before
    are guesses for the next ones. One pass computes the logits of all guesses, and those that match the drawn tokens are
    kept. The result is what decoding one by one draws, up to the rounding of sums (Leviathan et al. 2023, arXiv:2211.17192):
    the sampler sees the same tokens in the same order, whatever was guessed.

    Args:
        model: Its mode (train or eval) is restored at the end.
        prompt: At least one id. If the context is limited to block_size, only the end of a longer prompt counts.
        sampler: Draws each token; each continuation has its own memory.
        max_new_tokens: Number of tokens to draw.
        num_samples: Number of continuations; each depends only on the seed and its own number.
        seed: Seed of the draws.
        read_ahead: False decodes every token in its own pass.

    Raises:
        DivergedError: The logits of the model are not finite.
    """
    decoding = _Decoding(model, prompt, sampler, max_new_tokens, num_samples, seed, read_ahead)
    training = model.training
    model.eval()
    try:
        while decoding.left:
            with torch.no_grad():  # not inference_mode: tensors that a component keeps must still be usable in training
                drawn = decoding.advance()
            for ids in drawn:
                yield ids[:, 0].numpy()
    finally:
        model.train(training)


@dataclass
class _Row:
    """One continuation in progress.

    Attributes:
        sampler: Draws its tokens.
        ids: The prompt and the tokens drawn so far.
        generator: Its random numbers.
        memory: What the sampler remembers of it.
    """

    sampler: Sampler
    ids: list[int]
    generator: torch.Generator
    memory: Any = field(init=False)

    def __post_init__(self) -> None:
        self.memory = self.sampler.new_memory()

    def draw(self, logits: Float[Tensor, " vocab"]) -> int:
        """Draw the next token."""
        probabilities = self.sampler.probabilities(logits, self.ids, self.memory)
        token = int(torch.multinomial(probabilities, 1, generator=self.generator))
        self.sampler.observe(token, probabilities, self.memory)
        self.ids.append(token)
        return token


class _Decoding:
    """Continuations of one prompt in progress.

    Attributes:
        rows: The continuations.
        left: Number of tokens still to draw.
        pending: Ids that the model has not read yet, one row per continuation; a single row while all share the prompt.
        state: The model's state after the ids before `pending`; None before the first pass.
    """

    def __init__(
        self,
        model: GPT,
        prompt: Sequence[int],
        sampler: Sampler,
        max_new_tokens: int,
        num_samples: int,
        seed: int,
        read_ahead: bool,
    ):
        self.model, self.left = model, max_new_tokens
        generators = [torch.Generator().manual_seed(_stream_seed(seed, number)) for number in range(num_samples)]
        self.rows = [_Row(sampler, list(prompt), generator) for generator in generators]
        self.room = len(prompt) + self.left if model.decodes_without_end else model.dims.block_size
        self.device = model.device
        self.pending = torch.tensor([list(prompt[-self.room :])], device=self.device)
        self.state: ModelState | None = None
        self.guesses = Guesses(prompt) if read_ahead and num_samples == 1 else None

    def advance(self) -> list[Int[Tensor, "samples 1"]]:
        """Run the model once and draw from it: one token, or more after correct guesses.

        Raises:
            DivergedError: The logits of the model are not finite.
        """
        state = self._state_with_room()
        free = min(self.left - 1, self.room - state.length - self.pending.shape[1])
        guessed = self.guesses.next(free) if self.guesses is not None and state.truncatable else []
        if guessed:
            self.pending = torch.cat((self.pending, torch.tensor([guessed], device=self.device)), 1)
        hidden = self.model.hidden(self.pending, state)[0][:, -1 - len(guessed) :]
        logits = upcast(self.model.logits(hidden)).cpu()
        if not torch.isfinite(logits).all():
            raise DivergedError("the model's logits are not finite: its training diverged")
        if logits.shape[0] < len(self.rows):  # the prompt is read once for all continuations
            logits, self.state = logits.expand(len(self.rows), -1, -1), state.repeat(len(self.rows))
        drawn = self._draw(logits, guessed)
        wrong = len(guessed) - (len(drawn) - 1)
        if wrong:
            state.truncate(wrong)
        if self.guesses is not None:
            self.guesses.learn([int(ids) for ids in drawn], len(guessed), wrong)
        self.pending = drawn[-1].to(self.device)
        self.left -= len(drawn)
        return drawn

    def _state_with_room(self) -> ModelState:
        """The state; when it is full, a new one that starts from the last half of the context."""
        if self.state is None or self.state.length == self.room:
            if self.state is not None:
                half = max(1, self.model.dims.block_size // 2)
                self.pending = torch.tensor([row.ids[-half:] for row in self.rows], device=self.device)
            self.state = self.model.new_state(self.pending.shape[0], self.room)
        return self.state

    def _draw(self, logits: Float[Tensor, "samples time vocab"], guessed: Sequence[int]) -> list[Int[Tensor, "samples 1"]]:
        """Draw from the first logits, and from the next ones as long as each guess equals the drawn token."""
        drawn = [self._draw_next(logits[:, 0])]
        for place, guess in enumerate(guessed, 1):
            if int(drawn[-1]) != guess:
                break
            drawn.append(self._draw_next(logits[:, place]))
        return drawn

    def _draw_next(self, logits: Float[Tensor, "samples vocab"]) -> Int[Tensor, "samples 1"]:
        return torch.tensor([[row.draw(own)] for row, own in zip(self.rows, logits, strict=True)])


def _stream_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint32)[0])


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids that decoding starts from.

    An empty prompt becomes a newline, or the first token if the vocabulary has no newline.

    Raises:
        TokenizerError: The prompt has a symbol outside the vocabulary.
    """
    if prompt:
        return [int(token) for token in tokenizer.encode(prompt)]
    try:
        return [int(token) for token in tokenizer.encode("\n")]
    except TokenizerError:
        return [0]


class Text:
    """The text of one continuation while its tokens are drawn, up to the first stop string that is complete in it.

    Characters count once all their bytes are drawn. A text that may be the beginning of a stop string is held back, so that
    no part of one is ever shown.

    Args:
        tokenizer: Decodes the tokens.
        stop: The stop strings.

    Attributes:
        ended: Whether a stop string is complete.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self.tokenizer, self.stop, self.ended = tokenizer, stop, False
        self._pending: list[int] = []  # tokens since the last place where no character was incomplete
        self._taken = 0  # how many characters of them are in _held or were shown
        self._held = ""

    def append(self, token: int) -> str:
        """The text that can be shown after another token."""
        self._pending.append(token)
        text = self.tokenizer.decode(self._pending)
        finished = len(text) - text.endswith(_UNFINISHED)  # an incomplete character is one sign, and always the last
        shown = self._show(text[self._taken : finished])
        self._taken = max(self._taken, finished)
        if finished == len(text):
            self._pending, self._taken = [], 0
        return shown

    def finish(self) -> str:
        """The text that is left after the last token."""
        shown = self._show(self.tokenizer.decode(self._pending)[self._taken :] if self._pending else "")
        return shown if self.ended else shown + self._held

    def _show(self, new: str) -> str:
        self._held += new
        found = [(place + len(stop), place) for stop in self.stop if (place := self._held.find(stop)) >= 0]
        self.ended = self.ended or bool(found)
        kept = min(found)[1] if found else len(self._held) - self._beginning()
        shown, self._held = self._held[:kept], self._held[kept:]
        return shown

    def _beginning(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        lengths = range(min(len(self._held), max(map(len, self.stop), default=0)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(self._held[-n:]) for stop in self.stop)), 0)


def stream_text(ids: Iterator[int], tokenizer: Tokenizer, stop: Sequence[str] = ()) -> Iterator[str]:
    """Pieces of text as soon as they are certain; no id is read after a stop string is complete.

    Without a stop string, the pieces joined equal decoding all ids at once.
    """
    text = Text(tokenizer, stop)
    for token in ids:
        if piece := text.append(token):
            yield piece
        if text.ended:
            return
    if piece := text.finish():
        yield piece


def sample_text(
    model: GPT, tokenizer: Tokenizer, prompt: str, sampling: SamplingSection, *, num_samples: int = 1, seed: int = 0
) -> list[str]:
    """The continuations of a prompt, without the prompt; each ends on its own before a stop string.

    Raises TokenizerError as `prompt_ids` does.
    """
    texts = [Text(tokenizer, sampling.stop) for _ in range(num_samples)]
    pieces: list[list[str]] = [[] for _ in texts]
    ids, sampler = prompt_ids(tokenizer, prompt), sampling.sampler.build()
    for drawn in sample_ids(model, ids, sampler, sampling.max_new_tokens, num_samples=num_samples, seed=seed):
        for text, own, token in zip(texts, pieces, drawn, strict=True):
            if not text.ended:
                own.append(text.append(int(token)))
        if all(text.ended for text in texts):
            break
    return ["".join([*own, text.finish()]) for text, own in zip(texts, pieces, strict=True)]
