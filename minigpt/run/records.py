"""metrics.jsonl as records, and samples.txt as text: checked as far as a checkpoint has recorded them, then read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from minigpt.errors import RunError
from minigpt.run import checkpoint
from minigpt.run.growing import check_beginning
from minigpt.run.recorded import MetricsRow


def read_records(metrics: Path, checkpoints: Path) -> list[MetricsRow]:
    """All records, in order; a torn last line (the machine went down, or the run is writing it) is left out.

    Args:
        metrics: The file.
        checkpoints: The run's checkpoints, which have recorded how it begins.

    Raises:
        RunError: It is damaged.
    """
    recorded = checkpoint.recorded(checkpoints)  # first: what a run adds meanwhile does no harm then
    check_beginning(metrics, recorded.metrics_bytes, recorded.metrics_sha256)
    found: list[MetricsRow] = []
    for number, line in enumerate(_lines(metrics), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = MetricsRow.model_validate_json(line)
        except ValidationError as error:
            raise RunError(f"{metrics} is damaged: line {number}: {_what(error)}") from error
        if found and row.step <= found[-1].step:
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


def _what(error: ValidationError) -> str:
    first = error.errors()[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


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
