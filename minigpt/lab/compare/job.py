"""What the process of a cell receives, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minigpt.errors import RunError, UnreadableError
from minigpt.run import RunFolder
from minigpt.run.status import Status
from minigpt.system.files import read_object, write_json

FORMAT: Final = 1
"""Of a cell's record."""


Ending = Literal[Status.FINISHED, Status.DIVERGED, Status.CRASHED]
"""How a cell can end."""


class Job(BaseModel):
    """One variant with one seed.

    Attributes:
        experiment: Its frozen file.
        corpus: Likewise.
        seed: Of this run.
        run: Its folder; trained there unless it is finished.
        key: What the outcome follows from: the identity of the run. Copied into the outcome.
        device: As for `minigpt run`.
        threads: Likewise.
        allow_plugins: Likewise.
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
    """How a cell ended.

    Attributes:
        format: Of this record.
        key: What the outcome follows from: the identity of the run.
        run: The run folder.
        outcome: How the run ended.
        message: Why, where it did not finish.
        updates: In the run's records when this was written; a run that has others since was continued. None where they
            could not be read.
        position_loss: Validation loss by place in the window, in nats; None where no target counts.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    format: Literal[1] = FORMAT
    key: str
    run: str
    outcome: Ending
    message: str = ""
    updates: Annotated[int, Field(ge=0)] | None
    position_loss: tuple[float | None, ...] = ()

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """The record in a file; None where there is none, or it has another format.

        Raises:
            RunError: It is damaged.
        """
        if not file.is_file():
            return None
        again = "remove it, and the run is looked at again"
        try:
            document = read_object(file)
            return cls.model_validate(document) if document.get("format") == FORMAT else None
        except UnreadableError as error:
            raise RunError(f"{error}; {again}") from error
        except ValidationError as error:
            raise RunError(f"{file} is damaged; {again}") from error

    def write(self, file: Path) -> None:
        """Write it. Raises WriteError."""
        write_json(file, self.model_dump(mode="json"))


def updates_in(run: RunFolder) -> int | None:
    """Updates in a run's records; None where they cannot be read."""
    try:
        rows = run.rows()
    except RunError:
        return None
    return rows[-1].step if rows else 0
