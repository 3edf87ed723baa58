"""Decide whether seconds and tokens/s of runs can be compared, or whether other processes disturbed them."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt.errors import listing
from minigpt.lab.compare.record import RunResult, VariantResult
from minigpt.run.recorded import MetricsRow
from minigpt.training.other_processes import ALONE


def share_of_others(rows: Sequence[MetricsRow], cores: int | None) -> float | None:
    """The share of all processors that other processes used while a run trained; None if it was not recorded.

    Args:
        rows: The run's records. Some have `other_cpu`: CPU seconds since the previous record that has it.
        cores: Cores of the machine, from provenance.json. None counts as 1, which overestimates the share.
    """
    measured = [row.other_cpu for row in rows if row.other_cpu is not None]
    wall = next((row.wall for row in reversed(rows) if row.other_cpu is not None), 0.0)
    if not wall:
        return None
    # Single numbers may be below 0, because the system counts in hundredths of a second. Their sum is right.
    return max(0.0, sum(measured) / wall / (cores or 1))


def why_not_comparable(variants: Sequence[VariantResult]) -> str | None:
    """Why the times of finished runs cannot be compared, as a clause; None if they can be."""
    finished = [(variant.name, run) for variant in variants for run in variant.finished]
    shares = [run.others for _, run in finished if run.others is not None and run.others > ALONE]
    if shares:
        shared = [(name, run) for name, run in finished if run.others is not None and run.others > ALONE]
        return (
            f"other processes used {_range(shares)} of the machine's processors "
            f"while {_named(shared, len(finished))} trained"
        )
    unknown = [(name, run) for name, run in finished if run.others is None]
    if unknown:
        return f"the load from other processes was not recorded while {_named(unknown, len(finished))} trained"
    machines = sorted({run.machine or "an unknown machine" for _, run in finished})
    return f"the runs were trained on different machines: {'; '.join(machines)}" if len(machines) > 1 else None


def _named(runs: Sequence[tuple[str, RunResult]], of: int) -> str:
    if len(runs) == of:
        return "all runs"
    if len(runs) > 4:
        return f"{len(runs)} of {of} runs"
    return listing([f"{name} (seed {run.seed})" for name, run in runs])


def _range(shares: Sequence[float]) -> str:
    low, high = (f"{share:.0%}" for share in (min(shares), max(shares)))
    return low if low == high else f"{low} to {high}"
