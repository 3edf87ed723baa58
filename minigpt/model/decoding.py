"""Decoding token by token from a state: filtering, sampling, streaming."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import ValidationError
from torch import Tensor

from minigpt.contracts import ModelState, Tokenizer
from minigpt.errors import DivergedError, ExperimentError, TokenizerError
from minigpt.experiment import SamplingSection
from minigpt.kernels.fused import upcast
from minigpt.model.gpt import GPT
from minigpt.model.guessing import Guesses
from minigpt.registry.problems import problems_of

_UNFINISHED = "\ufffd"  # a tokenizer returns it for bytes that are not a complete character


def filtered(logits: Float[Tensor, "batch vocab"], sampling: SamplingSection) -> Float[Tensor, "batch vocab"]:
    """Probabilities after temperature, top-k, top-p and min-p, in that order; each row sums to 1.

    Temperature 0 puts all weight on the most likely token. The most likely token is never removed.
    """
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    # In float64, and relative to the maximum: then a tiny temperature sharpens and does not overflow.
    logits = (logits.double() - logits.double().amax(-1, keepdim=True)) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        kept = logits.topk(sampling.top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values)
    probabilities = logits.softmax(-1)
    if sampling.top_p is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        removed = ordered.cumsum(-1) - ordered >= sampling.top_p  # the tokens before it already have enough mass
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(removed, 0.0))
    if sampling.min_p is not None:
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities / probabilities.sum(-1, keepdim=True)


def sample_ids(
    model: GPT,
    prompt: Sequence[int],
    sampling: SamplingSection,
    *,
    num_samples: int = 1,
    seed: int = 0,
    read_ahead: bool = True,
) -> Iterator[Int[np.ndarray, " samples"]]:
    """Draw `sampling.max_new_tokens` tokens for each of `num_samples` continuations, decoded as one batch.

    A model whose state does not grow (`GPT.decodes_without_end`) decodes without a limit. For others the context is the last
    block_size tokens. When it is full, decoding restarts from its last half. So each token costs a forward pass of one
    token, and every half context a pass of half a context.

    A single continuation reads ahead if its state is a plain cache: the tokens that followed the same three tokens before
    are guesses for the next ones. One pass computes the logits of all guesses, and those that match the drawn tokens are
    kept. The result is what decoding one by one draws, up to the rounding of sums (Leviathan et al. 2023, arXiv:2211.17192).

    Args:
        model: Its mode (train or eval) is restored at the end.
        prompt: At least one id. If the context is limited to block_size, only the end of a longer prompt counts.
        sampling: Temperature and filters.
        num_samples: Number of continuations; each depends only on the seed and its own number.
        seed: Seed of the draws.
        read_ahead: False decodes every token in its own pass.

    Raises:
        DivergedError: The logits of the model are not finite.
    """
    decoding = _Decoding(model, prompt, sampling, num_samples, seed, read_ahead)
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


class _Decoding:
    """Continuations of one prompt in progress.

    Attributes:
        left: Number of tokens still to draw.
        pending: Ids that the model has not read yet, one row per continuation; a single row while all share the prompt.
        state: The model's state after the ids before `pending`; None before the first pass.
        latest: The last ids, from which a full context restarts.
    """

    def __init__(
        self, model: GPT, prompt: Sequence[int], sampling: SamplingSection, num_samples: int, seed: int, read_ahead: bool
    ):
        self.model, self.sampling, self.num_samples = model, sampling, num_samples
        self.generators = [torch.Generator().manual_seed(_stream_seed(seed, number)) for number in range(num_samples)]
        self.left = sampling.max_new_tokens
        self.room = len(prompt) + self.left if model.decodes_without_end else model.dims.block_size
        self.device = model.device
        self.pending = torch.tensor([list(prompt[-self.room :])], device=self.device)
        self.state: ModelState | None = None
        half = max(1, model.dims.block_size // 2)
        self.latest = deque(torch.split(self.pending[:, -half:].repeat(num_samples, 1), 1, 1), maxlen=half)
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
        if logits.shape[0] < self.num_samples:  # the prompt is read once for all continuations
            logits, self.state = logits.expand(self.num_samples, -1, -1), state.repeat(self.num_samples)
        drawn = self._draw(logits, guessed)
        wrong = len(guessed) - (len(drawn) - 1)
        if wrong:
            state.truncate(wrong)
        if self.guesses is not None:
            self.guesses.learn([int(ids) for ids in drawn], len(guessed), wrong)
        self.pending = drawn[-1].to(self.device)
        self.latest.extend(ids.to(self.device) for ids in drawn)
        self.left -= len(drawn)
        return drawn

    def _state_with_room(self) -> ModelState:
        """The state; when it is full, a new one that starts from the last half of the context."""
        if self.state is None or self.state.length == self.room:
            if self.state is not None:
                self.pending = torch.cat(tuple(self.latest), 1)
            self.state = self.model.new_state(self.pending.shape[0], self.room)
        return self.state

    def _draw(self, logits: Float[Tensor, "samples time vocab"], guessed: Sequence[int]) -> list[Int[Tensor, "samples 1"]]:
        """Draw from the first logits, and from the next ones as long as each guess equals the drawn token."""
        drawn = [_drawn(logits[:, 0], self.sampling, self.generators)]
        for place, guess in enumerate(guessed, 1):
            if int(drawn[-1]) != guess:
                break
            drawn.append(_drawn(logits[:, place], self.sampling, self.generators))
        return drawn


def _drawn(
    logits: Float[Tensor, "batch vocab"], sampling: SamplingSection, generators: Sequence[torch.Generator]
) -> Int[Tensor, "batch 1"]:
    if sampling.temperature == 0:
        return logits.argmax(-1, keepdim=True)
    rows = zip(filtered(logits, sampling), generators, strict=True)
    return torch.stack([torch.multinomial(row, 1, generator=generator) for row, generator in rows])


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


def stream_text(ids: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Pieces of text as soon as characters are complete; joined they equal decoding all ids at once."""
    pending: list[int] = []
    shown = 0
    for token in ids:
        pending.append(token)
        text = tokenizer.decode(pending)
        finished = len(text) - text.endswith(_UNFINISHED)  # an incomplete character is one sign, and always the last
        if finished > shown:
            yield text[shown:finished]
            shown = finished
        if finished == len(text):
            pending, shown = [], 0
    if pending:
        yield tokenizer.decode(pending)[shown:]


def sample_text(
    model: GPT, tokenizer: Tokenizer, prompt: str, sampling: SamplingSection, *, num_samples: int = 1, seed: int = 0
) -> list[str]:
    """The continuations of a prompt, without the prompt. Raises TokenizerError as `prompt_ids` does."""
    drawn = list(sample_ids(model, prompt_ids(tokenizer, prompt), sampling, num_samples=num_samples, seed=seed))
    return [tokenizer.decode(column) for column in np.stack(drawn, 1)]


def sampling_with(section: SamplingSection, **changes: Any) -> SamplingSection:
    """A copy of the section with some settings changed; None leaves a setting unchanged.

    Raises:
        ExperimentError: A setting is out of its bounds.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return SamplingSection(**{**section.model_dump(), **given})
    except ValidationError as error:
        raise ExperimentError(problems_of(error, SamplingSection), "sampling") from error
