"""Decoding: one token after another from a state, filtered, sampled, streamed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import ValidationError
from torch import Tensor

from minigpt.contracts import Tokenizer
from minigpt.elementwise import wide
from minigpt.errors import DivergedError, ExperimentError, RunError, TokenizerError
from minigpt.experiment import SamplingSection
from minigpt.model import GPT
from minigpt.problems import problems_of
from minigpt.run import OpenRun, open_run

_UNFINISHED = "\ufffd"  # what a tokenizer gives for bytes that are no character yet


def filtered(logits: Float[Tensor, "batch vocab"], sampling: SamplingSection) -> Float[Tensor, "batch vocab"]:
    """Probabilities after temperature, top-k, top-p and min-p, in that order; each row sums to 1.

    Temperature 0 puts all weight on the likeliest token. The likeliest token always stays.
    """
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    # In float64 and from the maximum down: a tiny temperature sharpens, it does not overflow.
    logits = (logits.double() - logits.double().amax(-1, keepdim=True)) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        kept = logits.topk(sampling.top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values)
    probabilities = logits.softmax(-1)
    if sampling.top_p is not None:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p  # the mass before it is enough already
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(beyond, 0.0))
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

    A model whose memory does not grow (`GPT.decodes_without_end`) just goes on. For others the context is the last
    block_size tokens: when it is full, decoding starts afresh from the last half of it, so a token costs one forward pass
    of one token, and half a context's once in half a context.

    A single continuation reads ahead where its state is a plain cache: the tokens that followed the same three before go
    through the model in one pass as if they came next, and what is then drawn says how many of them do. So the tokens are
    those that decoding one by one draws, up to the rounding of sums (Leviathan et al. 2023, arXiv:2211.17192).

    Args:
        model: Left in the mode it was found in.
        prompt: At least one id; where the context is block_size, the end of a longer one counts.
        sampling: Temperature and filters.
        num_samples: Continuations; each depends on the seed and its own number only.
        seed: Of the draws.
        read_ahead: False sends every token through the model by itself.

    Raises:
        DivergedError: The model gives logits that are not finite.
    """
    block_size, device = model.dims.block_size, model.embedding.weight.device
    generators = [torch.Generator().manual_seed(_stream_seed(seed, number)) for number in range(num_samples)]
    room = len(prompt) + sampling.max_new_tokens if model.decodes_without_end else block_size
    pending, state = torch.tensor([list(prompt[-room:])], device=device), None
    half = max(1, block_size // 2)
    latest = deque(torch.split(pending[:, -half:].repeat(num_samples, 1), 1, 1), maxlen=half)
    guesses, left = _Guesses(prompt), sampling.max_new_tokens
    training = model.training
    model.eval()
    try:
        while left:
            with torch.no_grad():  # not inference_mode: what a component keeps must still be usable in training
                if state is None or state.length == room:
                    if state is not None:
                        pending = torch.cat(tuple(latest), 1)
                    state = model.new_state(pending.shape[0], room)
                free = min(left - 1, room - state.length - pending.shape[1])
                guessed = guesses.next(free) if read_ahead and num_samples == 1 and state.can_forget else []
                if guessed:
                    pending = torch.cat((pending, torch.tensor([guessed], device=device)), 1)
                hidden = model.hidden(pending, state)[0][:, -1 - len(guessed) :]
                logits = wide(model.logits(hidden)).cpu()
                if not torch.isfinite(logits).all():
                    raise DivergedError("the model's logits are not finite: its training diverged")
                if logits.shape[0] < num_samples:  # the prompt is read once for all
                    logits, state = logits.expand(num_samples, -1, -1), state.repeat(num_samples)
                drawn: list[Tensor] = []
                while len(drawn) <= len(guessed):  # what follows a guess counts if the guess is what was drawn
                    drawn.append(_drawn(logits[:, len(drawn)], sampling, generators))
                    if num_samples == 1:
                        guesses.append(int(drawn[-1]))
                    if len(drawn) <= len(guessed) and int(drawn[-1]) != guessed[len(drawn) - 1]:
                        break
                wrong = len(guessed) - (len(drawn) - 1)
                if wrong:
                    state.forget(wrong)
                guesses.learn(len(guessed), wrong)
                pending = drawn[-1].to(device)
                latest.extend(ids.to(device) for ids in drawn)
                left -= len(drawn)
            for ids in drawn:
                yield ids[:, 0].numpy()
    finally:
        model.train(training)


class _Guesses:
    """What may come next: what followed when the last three tokens stood together before (Saxena 2023, prompt lookup).

    A guess costs little, as one pass of a few tokens takes hardly longer than that of one, and a wrong one changes nothing.
    """

    def __init__(self, prompt: Sequence[int]):
        self.ids: list[int] = []
        self.after: dict[tuple[int, ...], int] = {}  # three tokens, and where the one after them stands
        self.count = _FEWEST
        for token in prompt:
            self.append(token)

    def append(self, token: int) -> None:
        """Remember what came."""
        if len(self.ids) >= _TOGETHER:
            self.after[tuple(self.ids[-_TOGETHER:])] = len(self.ids)
        self.ids.append(token)

    def next(self, free: int) -> list[int]:
        """At most `free` tokens; none where the last three are new."""
        place = self.after.get(tuple(self.ids[-_TOGETHER:]))
        guessed: list[int] = []
        while place is not None and len(guessed) < min(free, self.count):
            beyond = place + len(guessed) - len(self.ids)  # a text that goes in circles goes on so
            guessed.append(guessed[beyond] if beyond >= 0 else self.ids[beyond])
        return guessed

    def learn(self, guessed: int, wrong: int) -> None:
        """Guess twice as far after a guess that was right, and half as far after a wrong one."""
        if guessed:
            self.count = max(_FEWEST, self.count // 2) if wrong else min(2 * self.count, _MOST)


_TOGETHER, _FEWEST, _MOST = 3, 2, 16


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
    """The ids decoding starts from. An empty prompt starts after a newline, or after the first token there is.

    Raises:
        TokenizerError: The prompt has something that the tokenizer lacks.
    """
    if prompt:
        return [int(token) for token in tokenizer.encode(prompt)]
    try:
        return [int(token) for token in tokenizer.encode("\n")]
    except TokenizerError:
        return [0]


def stream_text(ids: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Pieces of text as soon as they are whole characters; together they are what decoding all ids at once gives."""
    pending: list[int] = []
    shown = 0
    for token in ids:
        pending.append(token)
        text = tokenizer.decode(pending)
        finished = len(text) - text.endswith(_UNFINISHED)  # half a character is one sign, and always the last
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
    """The section with some settings changed; None leaves one as it is.

    Raises:
        ExperimentError: A setting out of its bounds.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return SamplingSection(**{**section.model_dump(), **given})
    except ValidationError as error:
        raise ExperimentError(problems_of(error, SamplingSection), "sampling") from error


def generate(
    run: str | Path | OpenRun,
    prompt: str | None = None,
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    num_samples: int = 1,
    seed: int = 0,
    trust: bool = False,
) -> list[str]:
    """Continue a prompt with a trained model.

    What is None is taken from the run's own `sampling` section.

    Args:
        run: A run folder, or what `open_run` gave (which spares loading it again).
        prompt: Text to go on from.
        max_new_tokens: Length of each continuation.
        temperature: 0 always takes the likeliest token.
        top_k: Keep the k likeliest tokens.
        top_p: Keep the likeliest tokens that hold this probability together.
        min_p: Keep tokens at least this share as likely as the likeliest.
        num_samples: How many continuations.
        seed: Equal seeds give equal text.
        trust: As for `open_run`.

    Returns:
        The continuations, without the prompt.

    Raises:
        RunError: No trained model there.
        TokenizerError: The prompt has something that the tokenizer lacks.
    """
    opened, sampling = _prepare(
        run, trust, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    tokenizer = text_tokenizer(opened)
    text = sampling.prompt if prompt is None else prompt
    return sample_text(opened.model, tokenizer, text, sampling, num_samples=num_samples, seed=seed)


def stream(
    run: str | Path | OpenRun,
    prompt: str | None = None,
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    trust: bool = False,
) -> Iterator[str]:
    """The same text as `generate` gives for one sample, piece by piece as it is decoded. Arguments as there."""
    opened, sampling = _prepare(
        run, trust, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    tokenizer = text_tokenizer(opened)
    ids = prompt_ids(tokenizer, sampling.prompt if prompt is None else prompt)
    drawn = sample_ids(opened.model, ids, sampling, seed=seed)
    return stream_text((int(token[0]) for token in drawn), tokenizer)


def _prepare(run: str | Path | OpenRun, trust: bool, **changes: Any) -> tuple[OpenRun, SamplingSection]:
    opened = run if isinstance(run, OpenRun) else open_run(run, trust=trust)
    return opened, sampling_with(opened.experiment.sampling, **changes)


def text_tokenizer(opened: OpenRun) -> Tokenizer:
    """The run's tokenizer.

    Raises:
        RunError: It was trained on a synthetic task and has none.
    """
    if opened.tokenizer is None:
        raise RunError(f"{opened.experiment.name} was trained on ids of a synthetic task: it has no text to generate")
    return opened.tokenizer
