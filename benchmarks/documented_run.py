"""Publishes the documented run: the page docs/results/baseline.md, the curve, the compressed metrics.

    python benchmarks/documented_run.py runs/baseline/seed-1337 --resumed 3

All numbers of the page come from the metrics beside it; `tests/test_documented_run.py` compares them.
"""

from __future__ import annotations

import argparse
import gzip
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from minigpt import generate
from minigpt.errors import MinigptError
from minigpt.run import MetricsRow, Provenance, RunFolder

RESULTS = Path(__file__).parents[1] / "docs" / "results"
METRICS, CURVE, PAGE = "baseline.metrics.jsonl.gz", "baseline.svg", "baseline.md"
PROMPT, TEMPERATURE, SEEDS, LENGTH = "ROMEO:", 0.8, (1, 2, 3), 500


def read_metrics(file: Path) -> list[MetricsRow]:
    """The rows of a compressed metrics.jsonl, an update each."""
    return [MetricsRow.model_validate_json(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


def table(rows: Sequence[MetricsRow]) -> str:
    """Update, training loss (mean since the last evaluation), validation loss and perplexity, a line an evaluation."""
    lines = ["| update | training loss | validation loss | perplexity |", "|---:|---:|---:|---:|"]
    since: list[float] = []
    for row in rows:
        since += [] if row.train_loss is None else [row.train_loss]
        if row.val_loss is not None:
            loss = row.val_loss
            lines.append(f"| {row.step:,} | {statistics.fmean(since):.4f} | {loss:.4f} | {math.exp(loss):.2f} |")
            since = []
    return "\n".join(lines)


def summary(rows: Sequence[MetricsRow]) -> str:
    """The best and the last validation loss, in a sentence each."""
    measured = [(row.val_loss, row.step) for row in rows if row.val_loss is not None]
    words = [
        f"{title}: {loss:.4f} nats per character (perplexity {math.exp(loss):.2f}) at update {step:,}."
        for title, (loss, step) in (("Best", min(measured)), ("Last", measured[-1]))
    ]
    hours = rows[-1].seconds / 3600
    speed = statistics.median(row.tokens_per_second for row in rows)
    return "\n".join([*words, f"Training took {hours:.1f} hours at a median of {speed:,.0f} tokens/s."])


def draw(rows: Sequence[MetricsRow], file: Path) -> None:
    """Training and validation loss against the update."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "baseline", "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        trained = [(row.step, row.train_loss) for row in rows if row.train_loss is not None]
        axes.plot(*zip(*trained, strict=True), lw=0.5, color="#9ab", label="training")
        measured = [(row.step, row.val_loss) for row in rows if row.val_loss is not None]
        steps, losses = [step for step, _ in measured], [loss for _, loss in measured]
        axes.plot(steps, losses, "o-", ms=3, color="#0072B2", label="validation, whole split")
        axes.axhline(min(losses), lw=0.8, ls=":", color="#555")
        axes.annotate(f"{min(losses):.4f}", (steps[0], min(losses)), (0, 3), textcoords="offset points", color="#555")
        axes.set(xlabel="update (64 x 256 characters)", ylabel="loss, nats per character", ylim=(1.0, 3.0))
        axes.grid(alpha=0.2)
        axes.legend(frameon=False)
        figure.savefig(file, metadata={"Date": None})


def page(rows: Sequence[MetricsRow], recorded: Provenance, samples: Sequence[str], resumed: int) -> str:
    """The whole page."""
    machine, versions = recorded.machine, recorded.versions
    where = f"{machine.processor}, {machine.threads} threads, device {machine.device}"
    software = f"torch {versions.torch}, Python {versions.python}, core {recorded.core[:12]}"
    drawn = "\n\n".join(f"```\n{sample.rstrip()}\n```" for sample in samples)
    return f"""# The documented run

    minigpt run experiments/baseline.json --set training.checkpoint_interval=50

10,770,816 parameters, {rows[-1].step:,} updates of 64 x 256 characters of TinyShakespeare, seed 1337, precision
{recorded.precision} (what `auto` chose). {where}; {software}. Begun {recorded.started[:10]}. The run shared its
processor with other work, and was interrupted and resumed {resumed} times, each time from its last checkpoint.

{summary(rows)}

The validation loss is the mean over every character of the validation split but the first, in windows of 256 side by side.
The training loss is the mean over the updates since the evaluation before, with dropout.

![training and validation loss against the update](baseline.svg)

{table(rows)}

[baseline.metrics.jsonl.gz](baseline.metrics.jsonl.gz) has a line for every update.

## Samples

    minigpt generate RUN "{PROMPT}" --temperature {TEMPERATURE} --max-new-tokens {LENGTH} --seed N

with N = {", ".join(map(str, SEEDS))}, from the best checkpoint:

{drawn}

This page is written by `python benchmarks/documented_run.py RUN --resumed N`.
"""


def main() -> None:
    """Read the run, and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the finished run's folder")
    parser.add_argument("--resumed", type=int, required=True, help="how often it was interrupted and resumed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    run = RunFolder(given.run)
    if not run.is_finished():
        raise MinigptError(f"{given.run} is not finished")
    packed = gzip.compress(run.metrics.read_bytes(), mtime=0)
    (given.out / METRICS).write_bytes(packed)
    rows = read_metrics(given.out / METRICS)
    draw(rows, given.out / CURVE)
    samples = [
        PROMPT + text
        for seed in SEEDS
        for text in generate(run.path, PROMPT, max_new_tokens=LENGTH, temperature=TEMPERATURE, seed=seed)
    ]
    (given.out / PAGE).write_text(page(rows, run.provenance(), samples, given.resumed), "utf-8")
    print(f"{given.out / PAGE}: {len(rows):,} updates, {len(packed):,} bytes of metrics")


if __name__ == "__main__":
    main()
