"""Components that need a file, of which they give examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from minigpt.contracts import Schedule, UserPath
from tests.unusual import unusual

_BESIDE_IT = Path(__file__).with_name("schedules.py")


@unusual("schedule", "knobs", "the floor is measured in a file: any text file of the check would be none of that kind")
class FloorOfAFile(Schedule):
    """A straight line.

    Args:
        measured: A Python file; its number of classes is the floor in per cent.
    """

    def __init__(
        self, max_iters: int, *, measured: Annotated[UserPath, Field(examples=[str(Path(__file__)), str(_BESIDE_IT)])]
    ):
        if not measured.endswith(".py"):
            raise OSError(f"{measured} is no Python file")
        self.floor, self.max_iters = Path(measured).read_text("utf-8").count("\nclass ") / 100, max_iters

    def factor(self, step: int) -> float:
        return 1 - (1 - self.floor) * step / self.max_iters
