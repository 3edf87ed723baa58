"""`minigpt generate`."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import typer

from minigpt.cli.options import NoPlugins, RunArgument, Trust
from minigpt.cli.terminal import warn, write_generated
from minigpt.errors import TokenizerError


def generate(
    run: RunArgument,
    prompt: Annotated[
        str | None, typer.Argument(help="Text to go on from; the experiment's own where it is left out.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Length of each continuation.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Keep the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Keep the likeliest tokens that hold this probability together.")
    ] = None,
    min_p: Annotated[float | None, typer.Option(help="Keep tokens at least this share as likely as the likeliest.")] = None,
    num_samples: Annotated[int, typer.Option(min=1, max=100_000, help="How many continuations.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Equal seeds give equal text; drawn and told if left out.")] = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, or a step number.")] = "best",
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Continue a prompt with a trained model, streaming as it is decoded.

    Control characters in what it writes are escaped on a terminal; a file or a pipe gets the text exactly as it is.
    """
    from minigpt.model.decoding import prompt_ids, sampling_with
    from minigpt.run import generating, open_run

    opened = open_run(run, which=checkpoint, allow_plugins=not no_plugins, trust=trust)
    text = opened.experiment.sampling.prompt if prompt is None else prompt
    for note in opened.notes:
        warn(note)
    try:
        tokens = len(prompt_ids(generating.text_tokenizer(opened), text))
    except TokenizerError as error:
        raise TokenizerError(f"the prompt: {error}") from error
    block_size = opened.experiment.model.block_size
    if tokens > block_size and not opened.model.decodes_without_end:
        warn(f"the prompt has {tokens} tokens; the model sees the last {block_size}")
    filters: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    settings = {"max_new_tokens": max_new_tokens, **filters}
    sampling = sampling_with(opened.experiment.sampling, **settings)  # refused before anything is printed
    if seed is None:
        seed = secrets.randbelow(2**31)
        if sampling.temperature > 0:
            warn(f"seed {seed}")
    if num_samples == 1:
        write_generated(text)
        for piece in generating.stream(opened, text, seed=seed, **settings):
            write_generated(piece)
        write_generated("\n")
        return
    samples = generating.generate(opened, text, num_samples=num_samples, seed=seed, **settings)
    for number, sample in enumerate(samples, 1):
        write_generated(f"--- sample {number} of {num_samples}\n{text}{sample}\n")
