"""Text from a run: its best checkpoint, its tokenizer, its sampling settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from minigpt.contracts import Tokenizer
from minigpt.errors import RunError
from minigpt.experiment import SamplingSection
from minigpt.model.decoding import prompt_ids, sample_ids, sample_text, sampling_with, stream_text
from minigpt.run.opening import OpenRun, open_run


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


def _prepare(run: str | Path | OpenRun, trust: bool, **changes: int | float | None) -> tuple[OpenRun, SamplingSection]:
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
