"""Generate text from a run, with its best checkpoint, its tokenizer and its sampling settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from minigpt.contracts import Tokenizer
from minigpt.errors import RunError
from minigpt.model.decoding import prompt_ids, sample_ids, sample_text, stream_text
from minigpt.reading.sampling import sampling_with
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
    overrides: Sequence[str] = (),
    num_samples: int = 1,
    seed: int = 0,
    trust: bool = False,
) -> list[str]:
    """Continue a prompt with a trained model.

    Arguments that are None have the value of the run's `sampling` section.

    Args:
        run: A run folder, or an opened run, which is not loaded again.
        prompt: The text to continue.
        max_new_tokens: Length of each continuation, in tokens.
        temperature: Divides the logits; 0 always takes the most likely token.
        top_k: Keep the k most likely tokens.
        top_p: Keep the most likely tokens whose total probability reaches this value.
        min_p: Keep tokens with at least this share of the most likely token's probability.
        overrides: `sampling.sampler=mirostat`, `sampling.stop=["END"]` and the like, before the arguments above.
        num_samples: Number of continuations.
        seed: Equal seeds give equal text.
        trust: As for `open_run`.

    Returns:
        The continuations, without the prompt.

    Raises:
        RunError: The folder contains no trained model.
        TokenizerError: The tokenizer cannot encode the prompt.
        ExperimentError: A setting has a value that is not allowed, or the run's sampler has no such parameter.
    """
    opened = run if isinstance(run, OpenRun) else open_run(run, trust=trust)
    filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    opened = with_sampling(opened, overrides, max_new_tokens=max_new_tokens, **filters)
    tokenizer, sampling = text_tokenizer(opened), opened.experiment.sampling
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
    overrides: Sequence[str] = (),
    seed: int = 0,
    trust: bool = False,
) -> Iterator[str]:
    """Generate one text, piece by piece as it is decoded. Arguments and text are those of `generate`."""
    opened = run if isinstance(run, OpenRun) else open_run(run, trust=trust)
    filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    opened = with_sampling(opened, overrides, max_new_tokens=max_new_tokens, **filters)
    tokenizer, sampling = text_tokenizer(opened), opened.experiment.sampling
    ids = prompt_ids(tokenizer, sampling.prompt if prompt is None else prompt)
    drawn = sample_ids(opened.model, ids, sampling.sampler.build(), sampling.max_new_tokens, seed=seed)
    return stream_text((int(token[0]) for token in drawn), tokenizer, sampling.stop)


def with_sampling(
    opened: OpenRun, overrides: Sequence[str] = (), *, max_new_tokens: int | None = None, **parameters: int | float | None
) -> OpenRun:
    """The same run with other sampling settings. Arguments and errors as for `sampling_with`."""
    sampling = sampling_with(opened.experiment.sampling, overrides, max_new_tokens=max_new_tokens, **parameters)
    return replace(opened, experiment=opened.experiment.model_copy(update={"sampling": sampling}))


def text_tokenizer(opened: OpenRun) -> Tokenizer:
    """The run's tokenizer.

    Raises:
        RunError: The run was trained on a synthetic task, so it has no tokenizer.
    """
    if opened.tokenizer is None:
        raise RunError(f"{opened.experiment.name} was trained on ids of a synthetic task, so it cannot generate text")
    return opened.tokenizer
