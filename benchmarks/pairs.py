"""Times minigpt and a peer in pairs, for an update or for decoding, and draws the table of their ratios."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from contenders import Contender
from minigpt.contracts import Batch

PROMPT = 16


@dataclass(frozen=True)
class Pairs:
    """Seconds of minigpt and of a peer, alternating, for the same number of tokens."""

    name: str
    parameters: int
    tokens: int
    minigpt: list[float]
    peer: list[float]

    @property
    def ratios(self) -> list[float]:
        """Speed of minigpt as a multiple of the peer's, pair by pair."""
        return [theirs / ours for ours, theirs in zip(self.minigpt, self.peer, strict=True)]

    def to_json(self) -> dict[str, Any]:
        return {
            "peer": self.name,
            "parameters": self.parameters,
            "tokens": self.tokens,
            "seconds": self.peer,
            "minigpt_seconds": self.minigpt,
            "tokens_per_second": self.tokens / statistics.median(self.peer),
            "minigpt_tokens_per_second": self.tokens / statistics.median(self.minigpt),
            "ratio": statistics.median(self.ratios),
            "ratios": self.ratios,
        }


def compare(ours: Contender, name: str, peer: Contender, options: argparse.Namespace, console: Console) -> Pairs:
    """Measure a peer and minigpt in pairs; the first pair is a warm-up and does not count."""
    work = training(options) if options.what == "train" else decoding(options)
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(1 + options.repeats):
        pair = [seconds(work, who, repeat) for who in (ours, peer)]
        console.print(
            f"{name}, {f'pair {repeat}' if repeat else 'warm-up'}: minigpt {pair[0]:.2f} s, {name} {pair[1]:.2f} s"
        )
        if repeat:
            times[0].append(pair[0])
            times[1].append(pair[1])
    tokens = options.batch * options.block_size if options.what == "train" else options.tokens
    return Pairs(name, peer.n_parameters(), tokens, *times)


def seconds(work: Callable[[Contender, int], None], who: Contender, repeat: int) -> float:
    start = time.perf_counter()
    work(who, repeat)
    return time.perf_counter() - start


def training(options: argparse.Namespace) -> Callable[[Contender, int], None]:
    """A function that makes one update on the batch of a number."""
    ids = torch.randint(options.vocab_size, (1 + options.repeats, options.batch, options.block_size + 1))
    batches = [Batch(each[:, :-1].contiguous(), each[:, 1:].contiguous()) for each in ids]

    def work(who: Contender, repeat: int) -> None:
        who.update(batches[repeat], options.precision)

    return work


def decoding(options: argparse.Namespace) -> Callable[[Contender, int], None]:
    """A function that decodes all tokens after the prompt of a number; in the warm-up only a few."""
    prompts = torch.randint(options.vocab_size, (1 + options.repeats, 1, PROMPT))

    def work(who: Contender, repeat: int) -> None:
        n_tokens = options.tokens if repeat else min(options.tokens, PROMPT)
        if (got := len(who.generate(prompts[repeat], n_tokens))) != n_tokens:
            raise RuntimeError(f"{type(who).__name__} decoded {got} of {n_tokens} tokens, so its time cannot be compared")

    return work


def table_of(rows: list[Pairs], ours: Contender, title: str, caption: str) -> Table:
    table = Table(title=title, caption=caption)
    table.add_column("peer", no_wrap=True)
    for column in ("parameters", "tokens/s", "range", "minigpt, tokens/s", "range", "minigpt / peer", "range"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [*_spread([row.tokens / each for each in row.peer]), *_spread([row.tokens / each for each in row.minigpt])]
        table.add_row(row.name, f"{row.parameters:,}", *cells, *_spread(row.ratios, ",.2f"))
    table.add_section()
    table.add_row("minigpt", f"{ours.n_parameters():,}")
    return table


def _spread(values: list[float], form: str = ",.0f") -> tuple[str, str]:
    return f"{statistics.median(values):{form}}", f"{min(values):{form}} - {max(values):{form}}"
