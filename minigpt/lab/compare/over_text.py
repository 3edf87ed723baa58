"""How much each difference depends on the piece of validation text, from the losses of finished cells in blocks of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from minigpt.lab.compare.blocks import Blocks
from minigpt.lab.compare.grid import Cell
from minigpt.lab.compare.record import Comparison, TextInterval, VariantResult
from minigpt.lab.compare.variants import Unit
from minigpt.lab.statistics import FEWEST
from minigpt.lab.statistics.text import over_text
from minigpt.numbers import shown_interval


def with_text_intervals(results: Sequence[VariantResult], cells: Sequence[Cell], unit: Unit) -> list[VariantResult]:
    """The results, the base first, where each difference has its interval over the text."""
    records = ((cell, cell.outcome()) for cell in cells)
    measured = {(cell.variant.name, cell.seed): record.blocks for cell, record in records if record and record.blocks}
    return [_with_interval(result, results[0], measured, unit) for result in results]


def _with_interval(
    result: VariantResult, base: VariantResult, measured: dict[tuple[str, int], Blocks], unit: Unit
) -> VariantResult:
    if result.difference is None:
        return result
    seeds = [run.seed for run in result.runs]
    pairs = [(measured[result.name, seed], measured[base.name, seed]) for seed in seeds]
    interval = text_interval([ours for ours, _ in pairs], [theirs for _, theirs in pairs], unit)
    return result.model_copy(update={"difference": result.difference.model_copy(update={"text_interval": interval})})


def text_interval(variant: Sequence[Blocks], base: Sequence[Blocks], unit: Unit) -> TextInterval:
    """The interval of a difference over the text, from the blocks of both for the same seeds."""
    first, kind = base[0], base[0].kind
    if len(base) < FEWEST:
        return TextInterval(kind=kind, reason=f"with fewer than {FEWEST} seeds, chance effects of training are not known")
    starts = sorted(set.intersection(*(set(each.starts) for each in (*variant, *base))))
    if any(each.kind != kind or (each.tokenizer != first.tokenizer and kind != "documents") for each in variant):
        return TextInterval(
            kind=kind, reason="the tokenizers differ, and the corpus has too few documents to align blocks by"
        )
    losses = [np.mean([_summed(each, each.losses, starts) for each in runs], axis=0) for runs in (variant, base)]
    found = over_text(losses[0] - losses[1], _sizes(first, starts, unit))
    return TextInterval(kind=kind, bounds=found.interval, blocks=found.blocks, reason=found.reason)


def _sizes(blocks: Blocks, starts: Sequence[int], unit: Unit) -> Float[np.ndarray, " blocks"]:
    """What the summed losses in nats are divided by, in each block."""
    targets = _summed(blocks, blocks.targets, starts)
    if unit == "nats":
        return targets
    if blocks.bytes:
        return math.log(2) * _summed(blocks, blocks.bytes, starts)
    return math.log(2) * targets * (blocks.all_bytes or 0) / targets.sum()  # every token counts as one of mean length


def _summed(blocks: Blocks, values: Sequence[float], starts: Sequence[int]) -> Float[np.ndarray, " blocks"]:
    """Sums over the blocks that begin at these starts, which are some of the blocks' own."""
    return np.add.reduceat(np.asarray(values, dtype=np.float64), np.searchsorted(blocks.starts, starts))


def notes_on_text(comparison: Comparison) -> list[str]:
    """What the intervals over the text mean, where there are none, and which verdicts could be others on other text."""
    delta, lines = comparison.settings.delta, []
    variants = [(each.name, each.difference) for each in comparison.variants if each.difference is not None]
    known = [(name, found, found.text_interval) for name, found in variants if found.text_interval is not None]
    if any(interval.bounds for _, _, interval in known):
        lines.append(
            "the 95 % interval over text holds for these trained models on other text of the same kind, for each variant "
            "separately; the verdict is about other seeds on this text"
        )
    for name, found, interval in known:
        if interval.bounds is None:
            lines.append(f"{name}: no interval over text: {interval.reason}")
        elif found.kind in ("better", "worse") and interval.contains_zero:
            shown = shown_interval(interval.bounds, delta)
            lines.append(
                f"{name}: {found.kind} on this text, but the interval over text ({shown}, {interval.described}) contains 0, "
                "so another text could show otherwise"
            )
    return lines
