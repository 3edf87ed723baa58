"""`minigpt bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minigpt.cli.options import MOST_TOKEN_IDS, NoPlugins, PluginFile, Set, Trust, reading_of
from minigpt.cli.terminal import warn
from minigpt.errors import MinigptError, count
from minigpt.numbers import measured_time, operations, shown_speed
from minigpt.system.files import check_output, json_bytes, write_output

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from minigpt.experiment import Experiment
    from minigpt.lab.bench.decode import DecodingSpeed
    from minigpt.lab.bench.mixers import MixerSpeed
    from minigpt.lab.bench.timing import Timing
    from minigpt.lab.bench.train import TrainingSpeed
    from minigpt.reading import Reading

bench_app = typer.Typer(
    help="Measure speed and memory on this machine. Results are the median and range of several measurements.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ExperimentFile = Annotated[Path | None, typer.Argument(help="An experiment file. Default: the documented baseline.")]
VocabSize = Annotated[
    int, typer.Option(min=1, max=MOST_TOKEN_IDS, help="Vocabulary size. The default is TinyShakespeare's.")
]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda or mps.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Number of CPU threads. Default: torch's choice.")]
Repeats = Annotated[int, typer.Option(min=1, max=100_000, help="Number of measurements after the warm-up.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write all numbers to this JSON file.")]


@bench_app.command()
def train(
    experiment: ExperimentFile = None,
    changes: Set = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16 or auto (measured). Default: the experiment's precision.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    repeats: Repeats = 5,
    vocab_size: VocabSize = 65,
    json_file: JsonFile = None,
    plugin: PluginFile = None,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Measure the speed of training.

    Updates are timed, in full and in parts, and compared with the fastest matrix product on this machine. They are the same
    updates as in `minigpt run`, but with random token ids and weights, so no corpus is needed.
    """
    _check_place(json_file)
    overrides = [*(changes or []), *([] if precision is None else [f"training.precision={json.dumps(precision)}"])]
    reading = reading_of(overrides, plugin, no_plugins, trust)
    loaded = _load(experiment, reading)

    from minigpt.lab.bench.machine import prepare
    from minigpt.lab.bench.train import measure_training
    from minigpt.training.other_processes import OtherProcesses, as_warning

    others = OtherProcesses()
    where = prepare(device, threads)
    speed = measure_training(loaded, vocab_size=vocab_size, repeats=repeats, device=where, reading=reading)
    _print_training(loaded.name, speed)
    _warn(as_warning(others.share()))
    _write(json_file, "train", {"experiment": loaded.to_json(), "vocab_size": vocab_size, **speed.to_json()})


@bench_app.command()
def decode(
    experiment: ExperimentFile = None,
    changes: Set = None,
    tokens: Annotated[int, typer.Option(min=1, max=1 << 20, help="Number of tokens to decode per sequence.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, max=1 << 16, help="Number of sequences decoded together.")] = 1,
    run: Annotated[Path | None, typer.Option(help="Run folder with trained weights. Default: random weights.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 takes the most likely token.")] = 0.0,
    device: Device = "auto",
    threads: Threads = None,
    repeats: Repeats = 3,
    vocab_size: VocabSize = 65,
    json_file: JsonFile = None,
    plugin: PluginFile = None,
    no_plugins: NoPlugins = False,
    trust: Trust = False,
) -> None:
    """Measure the speed of decoding.

    Decoding with the model's state (the KV cache of attention) is compared with computing the whole window again for each
    token. Decoding a single sequence reads ahead where the text repeats itself, which random weights with greedy decoding
    do often. So decoding is timed with and without reading ahead; use --run to measure a trained model. Computing the whole
    window is timed at nine lengths and interpolated.
    """
    _check_place(json_file)
    if run is not None and (experiment is not None or changes):
        raise MinigptError("--run: the model is read from the run folder; leave out the experiment and --set")
    loaded = _load(experiment, reading_of(changes, plugin, no_plugins, trust))

    from minigpt.lab.bench.decode import measure_decoding
    from minigpt.lab.bench.machine import peak_mib, prepare
    from minigpt.model import build_model
    from minigpt.model.decoding import prompt_ids
    from minigpt.run import open_run
    from minigpt.training.other_processes import OtherProcesses, as_warning

    where = prepare(device, threads)
    imports, prompt = peak_mib(where), [0]
    if run is None:
        model = build_model(loaded, vocab_size)
    else:
        opened = open_run(run, allow_plugins=not no_plugins, trust=trust)
        loaded, model, vocab_size = opened.experiment, opened.model, opened.model.dims.vocab_size
        prompt = prompt_ids(opened.tokenizer, loaded.sampling.prompt) if opened.tokenizer else prompt
    others = OtherProcesses()
    speed = measure_decoding(
        model.to(where),
        prompt,
        temperature=temperature,
        tokens=tokens,
        batch=batch,
        repeats=repeats,
        device=where,
        imports_mib=imports,
    )
    _print_decoding(loaded.name, "random weights" if run is None else str(run), temperature, speed)
    _warn(as_warning(others.share()))
    settings = {"run": run and str(run), "temperature": temperature, "vocab_size": vocab_size}
    _write(json_file, "decode", {"experiment": loaded.to_json(), **settings, **speed.to_json()})


@bench_app.command()
def startup(repeats: Repeats = 10, json_file: JsonFile = None) -> None:
    """Measure the start-up time of minigpt, with commands that do little, such as `minigpt --help`."""
    from dataclasses import asdict

    from minigpt.lab.bench.startup import measure_startup

    _check_place(json_file)
    timings = measure_startup(repeats)
    table = _table("Whole processes", "", "median", "lowest, highest")
    for words, timing in timings.items():
        table.add_row(words, *_median_and_range(timing))

    import torch  # only now, after the measurement: imports of this process could slow down its child processes

    from minigpt.lab.bench.machine import this_machine

    machine = this_machine(torch.device("cpu"))
    _print(table, f"{count(repeats, 'repeat')} after a warm-up; {machine}")
    _write(
        json_file,
        "startup",
        {"machine": asdict(machine), "commands": {words: asdict(timing) for words, timing in timings.items()}},
    )


@bench_app.command()
def mixers(
    names: Annotated[str | None, typer.Option(help="Mixers, separated by commas. Default: all registered mixers.")] = None,
    times: Annotated[str, typer.Option(help="Sequence lengths, separated by commas.")] = "256,512,1024,2048,4096",
    batch: Annotated[int, typer.Option(min=1, max=1 << 16, help="Number of sequences, the same at every length.")] = 4,
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")] = "fp32",
    repeats: Repeats = 5,
    threads: Threads = None,
    json_file: JsonFile = None,
) -> None:
    """Measure the speed and memory of every token mixer.

    The forward and backward pass of one layer is timed at several lengths, each in a separate process. The layer has
    default parameters, no positions, d_model 384 and 6 heads of size 64, and runs on the CPU.
    """
    from dataclasses import asdict

    from minigpt.cli.drawing import terminal
    from minigpt.lab.bench.mixers import Settings, choose, measure_mixer

    _check_place(json_file)
    if precision not in ("fp32", "bf16"):
        raise MinigptError(f'--precision: found "{precision}"; allowed: fp32, bf16')
    lengths = _lengths(times)
    settings = Settings(batch, precision, repeats, threads)
    chosen = choose(names.split(",") if names else None)
    console, rows = terminal(err=True), []
    for name in chosen:
        for length in lengths:
            console.print(f"{name}, T = {length}")
            rows.append(measure_mixer(name, length, settings))
            _warn(rows[-1].warning)
    machine = next((row.machine for row in rows if row.machine), "no mixer could be measured")
    _print(_mixer_table(rows, lengths), f"batch {batch}, {precision}; {machine}")
    _write(json_file, "mixers", {**asdict(settings), "rows": [asdict(row) for row in rows]})


# ------------------------------------------------------------------------------------------------------------- options


def _load(file: Path | None, reading: Reading) -> Experiment:
    """The experiment of a file; without a file, the documented baseline."""
    from minigpt.reading import read_experiment

    return read_experiment({"name": "documented"} if file is None else file, reading)


def _lengths(text: str) -> list[int]:
    try:
        lengths = [int(length) for length in text.split(",")]
    except ValueError:
        lengths = [0]
    if min(lengths) < 1:
        raise MinigptError(
            f'--times: found "{text}"; allowed: whole numbers of at least 1, separated by commas, such as 512,2048'
        )
    return lengths


def _check_place(file: Path | None) -> None:
    """Check the folder of an output file before the measurement, which takes minutes."""
    if file is not None:
        check_output(file)


# -------------------------------------------------------------------------------------------------------------- output


def _print_training(name: str, speed: TrainingSpeed) -> None:
    table = _table(
        f"One update of {name}: {speed.parameters:,} parameters, {speed.tokens:,} tokens", "", "median", "lowest, highest"
    )
    table.add_row("update", *_median_and_range(speed.update))
    table.add_row("  batch, forward, backward, clipping", *_median_and_range(speed.gradients))
    table.add_row("  optimizer", *_median_and_range(speed.optimizer))
    table.add_row("tokens/s", *_speed(speed.tokens, speed.update))
    table.add_section()
    table.add_row("operations per update", operations(speed.flops.needed))
    table.add_row("achieved", _rates(speed.flops.needed / speed.update.median))
    table.add_row("matrix products, before and after", _rates(speed.before.best, speed.after.best))
    share = speed.share(speed.flops.needed, speed.update)
    table.add_row("share of the fastest matrix product", _bold(f"{share:.0%}"))
    table.add_row("  without the optimizer", f"{speed.share(speed.flops.needed, speed.gradients):.0%}")
    square = f"{speed.share(speed.flops.square, speed.update):.0%}"
    table.add_row("  with masked scores counted", square, operations(speed.flops.square))
    table.add_row("peak memory", *_memory(speed.peak_mib, speed.imports_mib))
    settings = f"{speed.precision}, micro-batches of {count(speed.micro_batch_size, 'sequence')}"
    _print(table, f"{settings}, {count(speed.update.n, 'update')} after a warm-up of two, random ids; {speed.machine}")


def _print_decoding(name: str, weights: str, temperature: float, speed: DecodingSpeed) -> None:
    title = f"Decoding with {name}: {speed.parameters:,} parameters, {speed.tokens:,} tokens, batch {speed.batch}"
    table = _table(title, "", "median", "lowest, highest")
    table.add_row("all tokens", *_median_and_range(speed.whole))
    table.add_row("without reading ahead", *_median_and_range(speed.one_by_one))
    table.add_row("tokens/s", *_speed(speed.batch * speed.tokens, speed.whole))
    table.add_row("peak memory", *_memory(speed.peak_mib, speed.imports_mib))
    table.add_section()
    for window in (speed.windows[0], speed.windows[-1]):
        table.add_row(f"one token by computing a window of {window.length:,}", *_median_and_range(window.seconds))
    interpolation = f"interpolated between {len(speed.windows)} lengths"
    table.add_row("all tokens by computing windows", measured_time(speed.recomputing), interpolation)
    table.add_row("speed-up by the state", _bold(f"{speed.ratio:.1f} ×"))
    table.add_row("  without reading ahead", _bold(f"{speed.ratio_one_by_one:.1f} ×"))
    how = "greedy" if temperature == 0 else f"temperature {temperature:g}"
    _print(table, f"fp32, {how}, {count(speed.whole.n, 'repeat')} after a warm-up, {weights}; {speed.machine}")


def _mixer_table(rows: list[MixerSpeed], lengths: list[int]) -> Table:
    table = _table("Forward and backward of one layer: tokens/s, peak MiB", "mixer", "parameters")
    for length in lengths:
        table.add_column(f"T = {length}", justify="right")
    ratio = {512, 2048} <= set(lengths)
    if ratio:
        table.add_column("time 2048 / 512", justify="right")
    for name in dict.fromkeys(row.mixer for row in rows):
        by_length = {row.time: row for row in rows if row.mixer == name}
        parameters = next((f"{row.parameters:,}" for row in by_length.values() if row.parameters is not None), "")
        cells: list[Text | str] = [_mixer_cell(by_length[length]) for length in lengths]
        if ratio:
            long, short = by_length[2048].seconds, by_length[512].seconds
            cells.append(f"{long.median / short.median:.1f}" if long and short else "")
        table.add_row(name, parameters, *cells)
    return table


def _mixer_cell(row: MixerSpeed) -> Text | str:
    from rich.text import Text

    if row.seconds is None or row.tokens_per_second is None:
        return Text(row.error or "", "red")
    return f"{shown_speed(row.tokens_per_second)}" + ("" if row.peak_mib is None else f"  {row.peak_mib:,.0f}")


def _table(title: str, first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(other, justify="right")
    return table


def _bold(text: str) -> Text:
    from rich.text import Text

    return Text(text, "bold")


def _median_and_range(timing: Timing) -> tuple[str, str]:
    return measured_time(timing.median), f"{measured_time(timing.low)}, {measured_time(timing.high)}"


def _speed(tokens: int, timing: Timing) -> tuple[Text, str]:
    """Tokens/s: the median and the range."""
    median, low, high = timing.rates(tokens)
    return _bold(shown_speed(median)), f"{shown_speed(low)}, {shown_speed(high)}"


def _rates(*rates: float) -> str:
    return f"{', '.join(f'{rate / 1e9:,.0f}' for rate in rates)} GFLOP/s"


def _memory(peak: float | None, imports: float | None) -> tuple[str, str]:
    if peak is None or imports is None:
        return "not available on this system", ""
    return f"{peak:,.0f} MiB", f"{imports:,.0f} before the model"


def _print(table: Table, caption: str) -> None:
    """Print a table with a caption: as wide as the terminal, and 200 columns without one, so that nothing is cut."""
    from rich.text import Text

    from minigpt.cli.drawing import terminal

    console = terminal(width=200)
    console.print(table)
    console.print(Text(caption, "dim"))


def _warn(words: str) -> None:
    """Print a warning, if there is one, to standard error."""
    if words:
        warn(words)


def _write(file: Path | None, name: str, numbers: dict[str, Any]) -> None:
    if file is not None:
        write_output(file, json_bytes({"bench": name, **numbers}))
