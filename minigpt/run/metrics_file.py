"""Read metrics.jsonl and samples.txt, after checking the part that a checkpoint has recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from minigpt.errors import RunError
from minigpt.registry.problems import first_problem
from minigpt.run import checkpoint
from minigpt.run.growing import check_beginning
from minigpt.run.recorded import MetricsRow


def read_records(metrics: Path, checkpoints: Path) -> list[MetricsRow]:
    """All records, in order. An incomplete last line (the run is writing it, or the machine crashed) is left out.

    Args:
        metrics: The file metrics.jsonl.
        checkpoints: The folder of the run's checkpoints, which recorded length and SHA-256 of the file.

    Raises:
        RunError: The file is damaged.
    """
    recorded = checkpoint.recorded(checkpoints)  # first, because a run may add lines meanwhile
    check_beginning(metrics, recorded.metrics_bytes, recorded.metrics_sha256)
    rows: list[MetricsRow] = []
    for number, line in enumerate(_lines(metrics), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = MetricsRow.model_validate_json(line)
        except ValidationError as error:
            raise RunError(f"{metrics} is damaged: line {number}: {first_problem(error)}") from error
        if rows and row.step <= rows[-1].step:
            raise RunError(f"{metrics} is damaged: line {number} is not the record of the next update")
        rows.append(row)
    return rows


def last_sample(samples: Path, checkpoints: Path) -> str:
    """The last generated text; empty if there is none.

    Raises:
        RunError: The file is damaged.
    """
    recorded = checkpoint.recorded(checkpoints)
    check_beginning(samples, recorded.samples_bytes, recorded.samples_sha256)
    content = b"".join(_lines(samples)).decode("utf-8", "replace")  # a running process may have written half a character
    return content.rpartition("--- step ")[2].partition("\n")[2].strip("\n")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        if not path.exists():
            return
        if not path.is_file():
            raise RunError(f"{path} is not a regular file")
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
