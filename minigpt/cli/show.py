"""`minigpt show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minigpt.cli.options import NoPlugins, PluginFile, Set, Trust, reading_of, run_at
from minigpt.cli.terminal import say
from minigpt.numbers import shown_speed

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from minigpt.experiment import Experiment, ModelSection
    from minigpt.model import GPT
    from minigpt.reading import Reading
    from minigpt.run import RunFolder

_STAND_IN = 256
_REPEATS = 3  # of each speed that is measured: its spread says how well it is known


def show(
    experiment: Annotated[Path, typer.Argument(help="An experiment file, or a run folder.")],
    changes: Set = None,
    vocab_size: Annotated[
        int | None, typer.Option(min=1, help="Count parameters for this many tokens, without loading the corpus.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the resolved experiment.")] = False,
    cost: Annotated[
        bool, typer.Option("--cost", help="Also what it costs: operations and memory, counted; tokens/s, measured here.")
    ] = False,
    plugin: PluginFile = None,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Print an experiment with every default filled in, and its model's modules with their parameters.

    Of a run, print what was recorded. None of its plugins is executed, unless --trust, --set or --plugin asks for it.
    """
    run = run_at(experiment)
    loaded = _loaded(experiment, run, reading_of(changes, plugin, no_plugins, trust))
    document: dict[str, Any] = loaded.to_json() if loaded is not None else run.document() if run is not None else {}
    say(json.dumps(document, indent=2, ensure_ascii=False))
    if as_json:
        return
    if run is not None:
        _print_provenance(run)
    if loaded is None:
        files = ", ".join(map(str, document.get("plugins", [])))
        say(f"its modules have parts of the run's own plugins, which are not executed ({files}); --trust shows them")
        return
    _print_model(loaded, run, vocab_size, cost)


def _loaded(file: Path, run: RunFolder | None, reading: Reading) -> Experiment | None:
    """The experiment, if it can be built; None where a run needs plugins of its own, and nobody asked for them."""
    from minigpt.reading import read_experiment

    if run is None:
        return read_experiment(file, reading)
    if not (reading.trust or reading.overrides or reading.plugin_files):
        return run.without_plugins()
    return run.experiment(reading)


def _print_provenance(run: RunFolder) -> None:
    """When, with what and where a run was begun."""
    recorded = run.provenance()
    versions = ", ".join(f"{name} {version}" for name, version in recorded.versions)
    machine = ", ".join(f"{name} {value}" for name, value in recorded.machine if value is not None)
    say(f"\nstarted: {recorded.started}\nversions: {versions}\nmachine: {machine}")
    say(f"precision: {recorded.precision}\ndata: {recorded.data.fingerprint}\ncode: {recorded.core}")
    for part in recorded.components:
        if part.distribution != "minigpt-lab":
            say(f"{part.component}: {part.file} (SHA-256 {part.sha256})")


def _print_model(loaded: Experiment, run: RunFolder | None, vocab_size: int | None, cost: bool) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from minigpt.cli.drawing import terminal
    from minigpt.model import build_model_on_meta

    size, source = (vocab_size, "as asked") if vocab_size else _vocabulary(loaded, run)
    model = build_model_on_meta(loaded.model, size)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("module", "what it is"):
        table.add_column(title, overflow="fold")
    table.add_column("parameters", justify="right")
    for name, module, copies in _rows(model):
        count = sum(parameter.numel() for parameter in module.parameters()) * copies
        table.add_row(name, type(module).__name__, f"{count:,}" if count else "")
    if model.head is None:
        table.add_row("head", "the embedding's weights (tied_head)", "")
    table.add_section()
    table.add_row("in all", "", Text(f"{model.n_parameters():,}", "bold"))
    console = terminal(width=None)
    console.print(table)
    if loaded.model.layers:
        console.print(_layers(loaded.model))
    console.print(f"vocabulary: {size:,} tokens ({source})", style="dim")
    console.print(_remembered(model), style="dim", soft_wrap=True)
    for line in run.later_segments() if run is not None else ():
        console.print(f"continued with changes: {line}", style="yellow", soft_wrap=True)
    if cost:
        table, warning = _costs(loaded, size)
        console.print(table)
        if warning:
            console.print(warning, style="yellow", soft_wrap=True)


def _layers(model: ModelSection) -> Table:
    """What the pattern of `model.layers` makes of each layer."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from minigpt.lab.layers import layer_choices, spans

    table = Table(title="What each layer ends up with", title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("layers")
    table.add_column("part")
    table.add_column("otherwise than the model", overflow="fold")
    for layers, choices in layer_choices(model):
        for number, choice in enumerate(choices):
            table.add_row("" if number else spans(layers), choice.family, Text(str(choice)))
        if not choices:
            table.add_row(spans(layers), "", "nothing: as model says")
    return table


def _remembered(model: GPT) -> str:
    """What decoding keeps of one sequence: so much a token, and so much whatever the length."""
    far = 2**20  # beyond every window
    a_token = model.state_bytes_token
    fixed = model.state_bytes(far) - far * a_token
    parts = [f"{a_token:,} bytes a token"] if a_token else []
    parts += [f"{fixed:,} bytes whatever the length"] if fixed else []
    length = model.dims.block_size
    return f"decoding remembers {' and '.join(parts) or 'nothing'}: {model.state_bytes(length):,} at {length} tokens (fp32)"


def _costs(experiment: Experiment, vocab_size: int) -> tuple[Table, str]:
    """The table, and a warning where others used the machine meanwhile."""
    from rich import box
    from rich.table import Table

    from minigpt.lab.bench.decode import measure_decoding
    from minigpt.lab.bench.machine import prepare
    from minigpt.lab.bench.train import measure_training
    from minigpt.lab.cost import measure_cost
    from minigpt.model import build_model
    from minigpt.training.other_processes import OtherProcesses, as_warning

    model, device = build_model(experiment, vocab_size), prepare("auto", None)
    counted = measure_cost(model)
    others = OtherProcesses()
    training = measure_training(experiment, vocab_size=vocab_size, repeats=_REPEATS, device=device)
    decoding = measure_decoding(
        model.to(device), [0], temperature=1.0, tokens=100, batch=1, repeats=_REPEATS, device=device, imports_mib=None
    )
    table = Table(title="What it costs", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for title in ("", "counted, or measured on this machine"):
        table.add_column(title, justify="right" if title else "left")
    for kind, count in counted.parameters.items():
        table.add_row(f"parameters, {kind}", f"{count:,}")
    table.add_row("parameters in all", f"{counted.total:,}")
    if counted.active != counted.total:
        table.add_row("  of which a token uses", f"{counted.active:,}")
    table.add_row("operations of training a token", f"{counted.train_flops:,} FLOP")
    table.add_row("  with masked scores counted", f"{counted.train_flops_square:,} FLOP")
    table.add_row("kept for the backward pass, a token", f"{counted.activation_bytes:,} bytes")
    table.add_row("remembered of each further token", f"{counted.state_bytes_token:,} bytes")
    table.add_row(f"remembered of {counted.context:,} tokens", f"{counted.state_bytes:,} bytes")
    for what, timing, tokens in (
        (f"training ({training.precision})", training.update, training.tokens),
        ("decoding one sequence", decoding.one_by_one, decoding.tokens),
    ):
        median, low, high = map(shown_speed, timing.rates(tokens))
        table.add_row(what, f"{median} tokens/s ({low} to {high})")
    return table, as_warning(others.share())


def _vocabulary(experiment: Experiment, run: RunFolder | None) -> tuple[int, str]:
    """How many tokens the model has: from the run, else from the corpus, else a stand-in where that is out of reach."""
    from minigpt.data import load_corpus
    from minigpt.errors import DataError

    if run is not None:
        return run.vocab_size(), "of this run"
    try:
        return load_corpus(experiment).vocab_size, f"{experiment.tokenizer.name} on {experiment.data.name}"
    except DataError:
        return _STAND_IN, "a stand-in, for the corpus is not here: say --vocab-size"


def _rows(model: nn.Module) -> list[tuple[str, nn.Module, int]]:
    """Modules with their paths, two levels deep in blocks; blocks that are alike in a row are one row each."""
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
