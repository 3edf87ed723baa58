"""`minigpt show`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minigpt.cli.options import MOST_TOKEN_IDS, NoPlugins, PluginFile, Set, Trust, reading_of, run_at
from minigpt.cli.terminal import say
from minigpt.numbers import shown_speed

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from minigpt.data import Corpus
    from minigpt.experiment import Experiment, ModelSection
    from minigpt.model import GPT
    from minigpt.reading import Reading
    from minigpt.run import RunFolder

_PLACEHOLDER = 256  # vocabulary size without a corpus
_REPEATS = 3  # measurements of each speed: their spread shows how precise it is


def show(
    experiment: Annotated[Path, typer.Argument(help="An experiment file or a run folder.")],
    changes: Set = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_TOKEN_IDS, help="Count parameters for this vocabulary size, without loading the corpus."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the resolved experiment.")] = False,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Also print the costs: operations and memory (counted), tokens/s (measured here)."),
    ] = False,
    plugin: PluginFile = None,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Print an experiment with all defaults filled in.

    The modules of its model are printed too, with their parameter counts. For a run, print its recorded experiment. Plugins
    of the run are executed only with --trust, --set or --plugin.
    """
    run, reading = run_at(experiment), reading_of(changes, plugin, no_plugins, trust)
    executes = run is None or bool(reading.trust or reading.overrides or reading.plugin_files)
    loaded = _loaded(experiment, run, reading, executes)
    document: dict[str, Any] = loaded.to_json() if loaded is not None else run.document() if run is not None else {}
    say(json.dumps(document, indent=2, ensure_ascii=False))
    if as_json:
        return
    if run is not None:
        _print_provenance(run)
    if loaded is None:
        files = ", ".join(map(str, document.get("plugins", [])))
        say(f"the modules are not shown, because the plugins of this run are not executed ({files}); --trust shows them")
        return
    _print_model(loaded, run, vocab_size, cost, reading if executes else replace(reading, allow_plugins=False))


def _loaded(file: Path, run: RunFolder | None, reading: Reading, executes: bool) -> Experiment | None:
    """The experiment; None if a run needs its own plugins and no option allows them."""
    from minigpt.reading import read_experiment

    if run is None:
        return read_experiment(file, reading)
    return run.experiment(reading) if executes else run.without_plugins()


def _print_provenance(run: RunFolder) -> None:
    """Print when, with which versions and on which machine a run was started."""
    recorded = run.provenance()
    versions = ", ".join(f"{name} {version}" for name, version in recorded.versions)
    machine = ", ".join(f"{name} {value}" for name, value in recorded.machine if value is not None)
    say(f"\nstarted: {recorded.started}\nversions: {versions}\nmachine: {machine}")
    say(f"trained model: {run.stamp()}")
    say(f"precision: {recorded.precision}\ndata: {recorded.data.fingerprint}\ncode: {recorded.core}")
    for part in recorded.components:
        if part.distribution != "minigpt-lab":
            say(f"{part.component}: {part.file} (SHA-256 {part.sha256})")


def _print_model(loaded: Experiment, run: RunFolder | None, vocab_size: int | None, cost: bool, reading: Reading) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from minigpt.cli.drawing import terminal
    from minigpt.model import build_model_on_meta

    size, source = (vocab_size, "as asked") if vocab_size else _vocabulary(loaded, run)
    model = build_model_on_meta(loaded.model, size)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("module", "class"):
        table.add_column(title, overflow="fold")
    table.add_column("parameters", justify="right")
    for name, module, copies in _rows(model):
        if name == "objective" and model.head is None:
            table.add_row("head", "computed by the embedding", "")
        count = sum(parameter.numel() for parameter in module.parameters()) * copies
        table.add_row(name, type(module).__name__, f"{count:,}" if count else "")
    table.add_section()
    table.add_row("total", "", Text(f"{model.n_parameters():,}", "bold"))
    console = terminal(width=None)
    console.print(table)
    if loaded.model.layers:
        console.print(_layers(loaded.model))
    console.print(f"vocabulary: {size:,} tokens ({source})", style="dim")
    console.print(_state_size(model), style="dim", soft_wrap=True)
    for line in run.later_segments() if run is not None else ():
        console.print(f"continued with changes: {line}", style="yellow", soft_wrap=True)
    if cost:
        table, warning = _costs(loaded, run, size, reading)
        console.print(table)
        if warning:
            console.print(warning, style="yellow", soft_wrap=True)


def _layers(model: ModelSection) -> Table:
    """A table of the choices that `model.layers` makes for each layer."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from minigpt.lab.layers import layer_choices, spans

    title = "How each layer differs from the model's settings"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("layers")
    table.add_column("component")
    table.add_column("difference", overflow="fold")
    for layers, choices in layer_choices(model):
        for number, choice in enumerate(choices):
            table.add_row("" if number else spans(layers), choice.family, Text(str(choice)))
        if not choices:
            table.add_row(spans(layers), "", "none")
    return table


def _state_size(model: GPT) -> str:
    """The size of the decoding state of one sequence: bytes per token, and bytes at any length."""
    beyond_windows = 2**20
    per_token = model.state_bytes_token
    fixed = model.state_bytes(beyond_windows) - beyond_windows * per_token
    parts = [f"{per_token:,} bytes per token"] if per_token else []
    parts += [f"{fixed:,} bytes at any length"] if fixed else []
    length = model.dims.block_size
    size = f"{model.state_bytes(length):,} bytes at {length} tokens (fp32)"
    return f"decoding state: {' and '.join(parts) or 'none'}; {size}"


def _costs(experiment: Experiment, run: RunFolder | None, vocab_size: int, reading: Reading) -> tuple[Table, str]:
    """The table of costs, and a warning if other processes used the machine meanwhile."""
    from rich import box
    from rich.table import Table

    from minigpt.data import sequence_length
    from minigpt.lab.bench.decode import measure_decoding
    from minigpt.lab.bench.machine import prepare
    from minigpt.lab.bench.train import measure_training
    from minigpt.lab.cost import measure_training_cost
    from minigpt.training.building import build_trainable
    from minigpt.training.other_processes import OtherProcesses, as_warning

    corpus, device = _corpus(experiment, run, vocab_size), prepare("auto", None)
    model, length = (
        build_trainable(experiment, corpus, reading=reading, random_ids=True),
        sequence_length(corpus, experiment),
    )
    counted = measure_training_cost(model, experiment, corpus)
    others = OtherProcesses()
    training = measure_training(
        experiment, vocab_size=vocab_size, repeats=_REPEATS, device=device, length=length, reading=reading
    )
    decoding = measure_decoding(
        model.to(device), [0], temperature=1.0, tokens=100, batch=1, repeats=_REPEATS, device=device, imports_mib=None
    )
    table = Table(title="Costs", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for title in ("", "counted, or measured on this machine"):
        table.add_column(title, justify="right" if title else "left")
    for kind, count in counted.parameters.items():
        table.add_row(f"parameters, {kind}", f"{count:,}")
    table.add_row("parameters, total", f"{counted.total:,}")
    if counted.active != counted.total:
        table.add_row("  used by each token", f"{counted.active:,}")
    table.add_row("training operations per token", f"{counted.train_flops:,} FLOP")
    table.add_row("  with masked scores counted", f"{counted.train_flops_square:,} FLOP")
    table.add_row("saved activations per token", f"{counted.activation_bytes:,} bytes")
    table.add_row("decoding state per further token", f"{counted.state_bytes_token:,} bytes")
    table.add_row(f"decoding state of {counted.context:,} tokens", f"{counted.state_bytes:,} bytes")
    for what, timing, tokens in (
        (f"training ({training.precision})", training.update, training.tokens),
        ("decoding one sequence", decoding.one_by_one, decoding.tokens),
    ):
        median, low, high = map(shown_speed, timing.rates(tokens))
        table.add_row(what, f"{median} tokens/s ({low} to {high})")
    return table, as_warning(others.share())


def _corpus(experiment: Experiment, run: RunFolder | None, vocab_size: int) -> Corpus:
    """The corpus; random ids of the same length if it has another vocabulary, or is not available."""
    from minigpt.data import load_corpus, sequence_length
    from minigpt.errors import DataError
    from minigpt.lab.bench.train import random_corpus

    try:
        corpus = load_corpus(experiment, run.learned() if run else None)
    except DataError:
        return random_corpus(vocab_size, experiment.model.block_size)
    if corpus.vocab_size == vocab_size:
        return corpus
    length = sequence_length(corpus, experiment)
    return random_corpus(vocab_size, length, rows=length < experiment.model.block_size)


def _vocabulary(experiment: Experiment, run: RunFolder | None) -> tuple[int, str]:
    """The vocabulary size and its source: the run, else the corpus, else a placeholder if the corpus is not available."""
    from minigpt.data import load_corpus
    from minigpt.errors import DataError

    if run is not None:
        return run.vocab_size(), "of this run"
    try:
        return load_corpus(experiment).vocab_size, f"{experiment.tokenizer.name} on {experiment.data.name}"
    except DataError:
        return _PLACEHOLDER, "a placeholder, because the corpus is not on this machine; set it with --vocab-size"


def _rows(model: nn.Module) -> list[tuple[str, nn.Module, int]]:
    """Modules with paths and copies, two levels deep in blocks. Consecutive identical blocks share one row."""
    rows: list[tuple[str, nn.Module, int]] = []
    for name, module in model.named_children():
        if name != "blocks":
            leaves = list(module.named_children()) if name == "positions" else []
            rows += [(f"{name}.{child}", part, 1) for child, part in leaves] or [(name, module, 1)]
            continue
        blocks = list(module.children())
        shapes = [_shape(block) for block in blocks]
        start = 0
        while start < len(blocks):
            end = start
            while end + 1 < len(blocks) and shapes[end + 1] == shapes[start]:
                end += 1
            label = f"blocks.{start}" if end == start else f"blocks.{start}–{end}"
            copies = end - start + 1
            rows.append((label, blocks[start], copies))
            rows += [
                (f"  .{child}", part, copies) for child, part in blocks[start].named_children() if list(part.parameters())
            ]
            start = end + 1
    return [row for row in rows if row[0] not in ("dropout",)]


def _shape(module: nn.Module) -> list[tuple[str, str, tuple[int, ...]]]:
    parts = [(name, type(part).__name__, ()) for name, part in module.named_modules()]
    return [*parts, *((name, "", tuple(parameter.shape)) for name, parameter in module.named_parameters())]
