"""The messages between a comparison and the process of a cell: its job, and its record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minigpt.errors import RunError, UnreadableError
from minigpt.lab.compare.blocks import Blocks
from minigpt.run import RunFolder
from minigpt.run.status import Status
from minigpt.system.files import read_object, write_json

FORMAT: Final = 2
"""Format number of a cell's record."""


CellOutcome = Literal[Status.FINISHED, Status.VIOLATED, Status.DIVERGED, Status.CRASHED]
"""The outcomes that a cell's record can have."""


class Job(BaseModel):
    """The job of a cell's process: train and measure one variant with one seed.

    Attributes:
        experiment: The frozen copy of the experiment.
        corpus: The frozen copy of the corpus.
        seed: The run's seed.
        run: The run folder. The run is trained there unless it is finished.
        key: Digest of the run's identity; it is copied into the record.
        device: As for `minigpt run`.
        threads: As for `minigpt run`.
        allow_plugins: As for `minigpt run`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Path
    corpus: Path
    seed: int
    run: Path
    key: str
    device: str
    threads: int | None
    allow_plugins: bool


class CellRecord(BaseModel):
    """The record of how a cell ended.

    Attributes:
        format: Format number of this record.
        key: Digest of the run's identity, which determines the outcome.
        run: The run folder.
        outcome: How the run ended.
        message: Why the run did not finish; empty if it did.
        updates: Updates in the run's records when this record was written. If their number has changed since, the run
            was continued. None if they could not be read.
        position_loss: Validation loss at each position in the window, in nats; None where no target counts.
        blocks: Validation losses in blocks of the text; None if the run did not finish.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")

    format: Literal[2] = FORMAT
    key: str
    run: str
    outcome: CellOutcome
    message: str = ""
    updates: Annotated[int, Field(ge=0)] | None
    position_loss: tuple[float | None, ...] = ()
    blocks: Blocks | None = None

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """Read the record in a file; None if there is none, or it has another format.

        Raises:
            RunError: It is damaged.
        """
        if not file.is_file():
            return None
        again = "remove it; then the run is examined again"
        try:
            document = read_object(file)
            return cls.model_validate(document) if document.get("format") == FORMAT else None
        except UnreadableError as error:
            raise RunError(f"{error}; {again}") from error
        except ValidationError as error:
            raise RunError(f"{file} is damaged; {again}") from error

    def write(self, file: Path) -> None:
        """Write the record to a file. Raises WriteError."""
        write_json(file, self.model_dump(mode="json"))


def updates_in(run: RunFolder) -> int | None:
    """The last update in a run's records; None if they cannot be read."""
    try:
        rows = run.rows()
    except RunError:
        return None
    return rows[-1].step if rows else 0
