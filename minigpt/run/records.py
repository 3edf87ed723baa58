"""metrics.jsonl as records, and samples.txt as text: checked as far as a checkpoint has recorded them, then read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigpt.errors import RunError
from minigpt.run import checkpoint
from minigpt.run.growing import check_beginning

LARGEST = 1e100
"""Of a number in a record, either way: beyond every loss and every count, and sums and squares of it are finite."""


def read_records(metrics: Path, checkpoints: Path) -> list[dict[str, Any]]:
    """All records, in order; a torn last line (the machine went down, or the run is writing it) is left out.

    Args:
        metrics: The file.
        checkpoints: The run's checkpoints, which have recorded how it begins.

    Raises:
        RunError: It is damaged.
    """
    recorded = checkpoint.recorded(checkpoints)  # first: what a run adds meanwhile does no harm then
    check_beginning(metrics, recorded.metrics_bytes, recorded.metrics_sha256)
    found: list[dict[str, Any]] = []
    for number, line in enumerate(_lines(metrics), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{metrics} is damaged: line {number} is not JSON") from error
        if not is_record(row) or (found and row["step"] <= found[-1]["step"]):
            raise RunError(f"{metrics} is damaged: line {number} is no record of the next update")
        found.append(row)
    return found


def last_sample(samples: Path, checkpoints: Path) -> str:
    """The text that was drawn last; nothing where none was.

    Raises:
        RunError: The file is damaged.
    """
    recorded = checkpoint.recorded(checkpoints)
    check_beginning(samples, recorded.samples_bytes, recorded.samples_sha256)
    content = b"".join(_lines(samples)).decode("utf-8", "replace")  # a run may be in the middle of a character
    return content.rpartition("--- step ")[2].partition("\n")[2].strip("\n")


def is_record(value: Any) -> bool:
    """Whether it is an object of finite numbers that says of which update it is."""
    if not isinstance(value, dict) or not isinstance(value.get("step"), int) or isinstance(value["step"], bool):
        return False
    return value["step"] >= 1 and all(_is_number(number) for number in value.values())


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST and (isinstance(value, int) or math.isfinite(value))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        if not path.exists():
            return
        if not path.is_file():
            raise RunError(f"{path} is no ordinary file")
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
