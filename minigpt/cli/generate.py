"""`minigpt generate`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from minigpt.cli.options import NoPlugins, PluginFile, RunArgument, SetSampling, Trust
from minigpt.cli.terminal import warn, write_generated
from minigpt.errors import PluginError, TokenizerError

if TYPE_CHECKING:
    from minigpt.run.opening import OpenRun


def generate(
    run: RunArgument,
    prompt: Annotated[str | None, typer.Argument(help="Text to continue. Default: the prompt in the experiment.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Number of tokens to generate per sample.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0 always takes the most likely token.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample only from the k most likely tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample only from the most likely tokens whose probabilities add up to this.")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Sample only from tokens with at least this fraction of the highest probability."),
    ] = None,
    changes: SetSampling = None,
    num_samples: Annotated[int, typer.Option(min=1, max=100_000, help="Number of samples to generate.")] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed: the same seed gives the same text. Default: drawn and printed.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint to load: best, last, or a step number.")] = "best",
    plugin: PluginFile = None,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Generate text with a trained model.

    The text continues the prompt and is printed token by token. On a terminal its control characters are escaped. A file or
    a pipe receives the exact text. --temperature, --top-k, --top-p and --min-p are parameters of the sampler, and change it
    after --set.
    """
    from minigpt.registry import plugins
    from minigpt.run import generating, open_run

    if plugin and no_plugins:
        raise PluginError(f"plugins are refused (--no-plugins), but {plugin[0]} is a plugin")
    opened = open_run(run, which=checkpoint, allow_plugins=not no_plugins, trust=trust)
    for note in opened.notes:
        warn(note)
    for file in plugin or []:
        plugins.load_file(file)
    filters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    opened = generating.with_sampling(opened, changes or (), max_new_tokens=max_new_tokens, **filters)
    sampling = opened.experiment.sampling
    text = sampling.prompt if prompt is None else prompt
    _check_prompt(opened, text)
    if seed is None:
        seed = secrets.randbelow(2**31)
        if sampling.sampler.params.get("temperature") != 0:  # 0 draws nothing
            warn(f"seed {seed}")
    _write(opened, text, num_samples, seed)


def _write(opened: OpenRun, text: str, num_samples: int, seed: int) -> None:
    """Print one text as it is generated, or several when they are complete."""
    from minigpt.run import generating

    if num_samples == 1:
        write_generated(text)
        for piece in generating.stream(opened, text, seed=seed):
            write_generated(piece)
        write_generated("\n")
        return
    samples = generating.generate(opened, text, num_samples=num_samples, seed=seed)
    for number, sample in enumerate(samples, 1):
        write_generated(f"--- sample {number} of {num_samples}\n{text}{sample}\n")


def _check_prompt(opened: OpenRun, prompt: str) -> None:
    """Warn of a prompt that is longer than the context, and refuse one that cannot be encoded."""
    from minigpt.model.decoding import prompt_ids
    from minigpt.run.generating import text_tokenizer

    try:
        tokens = len(prompt_ids(text_tokenizer(opened), prompt))
    except TokenizerError as error:
        raise TokenizerError(f"the prompt: {error}") from error
    block_size = opened.experiment.model.block_size
    if tokens > block_size and not opened.model.decodes_without_end:
        warn(f"the prompt has {tokens} tokens; the model sees the last {block_size}")
