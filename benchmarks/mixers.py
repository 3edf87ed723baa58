"""Speed and memory of every registered token mixer: one layer, forward and backward, at several lengths.

    python benchmarks/mixers.py --names gqa,gla --times 512,2048 --precision bf16 --json mixers.json

Each mixer has its default parameters and no positions, d_model 384, 6 heads of 64. The batch is the same at every length,
so a mixer that is linear in time takes 4 times as long at 2048 as at 512. Every measurement has a process of its own: its
peak is the largest resident memory, less what was resident once everything was imported.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# What is measured runs in child processes. torch is imported there only: a child's peak is never below its parent's
# memory at the fork, so the parent stays small.

VOCAB = 256


def names() -> list[str]:
    import minigpt.components  # noqa: F401 - importing it registers them
    from minigpt.registry import REGISTRY

    return [entry.name for entry in REGISTRY.entries("attention")]


def peak_mib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, else in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measure(name: str, length: int, batch: int, precision: str, repeats: int, threads: int | None) -> dict[str, Any]:
    """Median seconds of a forward and backward pass after two to warm up, and peak memory in MiB."""
    import torch

    import minigpt.components  # noqa: F401 - importing it registers them
    from minigpt.contracts import Component, Context, Dims
    from minigpt.registry import REGISTRY

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    baseline = peak_mib()
    dims = Dims(d_model=384, n_layers=1, n_heads=6, head_dim=64, block_size=length, vocab_size=VOCAB, dropout=0.0)
    mixer = REGISTRY.resolve("attention", name).build(dims)
    for module in mixer.modules():
        if isinstance(module, Component):
            module.init_weights()
    position = REGISTRY.resolve("position", "none").build(dims)
    x = torch.randn(batch, length, dims.d_model, requires_grad=True)
    tokens = torch.randint(0, VOCAB, (batch, length))
    seconds = []
    for _ in range(2 + repeats):
        mixer.zero_grad()
        x.grad = None
        start = time.perf_counter()
        ctx = Context(torch.arange(length), position, tokens)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            y = mixer(x, ctx)
        (y.float().square().mean() + sum(ctx.losses)).backward()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[2:])
    return {
        "mixer": name,
        "time": length,
        "seconds": median,
        "tokens_per_second": batch * length / median,
        "peak_mib": peak_mib() - baseline,
        "parameters": sum(parameter.numel() for parameter in mixer.parameters()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def in_child(function: str, *arguments: Any) -> Any:
    """The result of one of the functions above, in a fresh process.

    Raises:
        RuntimeError: The process failed; the message is its last line.
    """
    command = [sys.executable, str(Path(__file__)), "--call", json.dumps([function, *arguments])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"ended with code {done.returncode} and no word (out of memory?)")
    return json.loads(done.stdout)


def table_of(rows: list[dict[str, Any]], lengths: list[int], caption: str) -> Table:
    table = Table(title="Forward and backward of one layer: tokens/s, peak MiB", caption=caption)
    table.add_column("mixer", no_wrap=True)
    table.add_column("parameters", justify="right")
    for length in lengths:
        table.add_column(f"T = {length}", justify="right")
    ratio = {512, 2048} <= set(lengths)
    if ratio:
        table.add_column("time 2048 / 512", justify="right")
    for name in dict.fromkeys(row["mixer"] for row in rows):
        mine = {row["time"]: row for row in rows if row["mixer"] == name}
        parameters = next((f"{row['parameters']:,}" for row in mine.values() if "parameters" in row), "")
        cells = [
            row["error"] if "error" in row else f"{row['tokens_per_second']:,.0f}  {row['peak_mib']:,.0f}"
            for row in (mine[length] for length in lengths)
        ]
        if ratio:
            known = all("seconds" in mine[length] for length in (512, 2048))
            cells.append(f"{mine[2048]['seconds'] / mine[512]['seconds']:.1f}" if known else "")
        table.add_row(name, parameters, *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", help="mixers, separated by commas; all that are registered without it")
    parser.add_argument("--times", default="256,512,1024,2048,4096", help="lengths, separated by commas")
    parser.add_argument("--batch", type=int, default=4, help="sequences, the same at every length")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16 is autocast")
    parser.add_argument("--repeats", type=int, default=5, help="the median counts; two more come before to warm up")
    parser.add_argument("--threads", type=int, help="of torch; 1 where others use the machine too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        function, *arguments = json.loads(options.call)
        print(json.dumps({"names": names, "measure": measure}[function](*arguments)))
        return
    known = in_child("names")
    chosen = options.names.split(",") if options.names else known
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"not registered: {', '.join(unknown)}; known: {', '.join(known)}")
    lengths = [int(length) for length in options.times.split(",")]
    console, rows = Console(stderr=True), []
    for name in chosen:
        for length in lengths:
            console.print(f"{name}, T = {length}")
            shared = (options.batch, options.precision, options.repeats, options.threads)
            try:
                rows.append(in_child("measure", name, length, *shared))
            except RuntimeError as error:
                rows.append({"mixer": name, "time": length, "error": str(error)})
    caption = f"batch {options.batch}, {options.precision}"
    if measured := next((row for row in rows if "torch" in row), None):
        caption += f", torch {measured['torch']}, {measured['threads']} threads"
    Console(width=None if sys.stdout.isatty() else 150).print(table_of(rows, lengths, caption))
    if options.json:
        document = {"batch": options.batch, "precision": options.precision, "repeats": options.repeats, "rows": rows}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
