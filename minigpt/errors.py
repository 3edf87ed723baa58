"""Types of the errors that a user can cause, and helpers for their messages."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class MinigptError(Exception):
    """Base of all errors that a user can cause and fix: printed without a traceback, exit code 2."""


class RegistryError(MinigptError):
    """A component does not fit its family, or its name is taken or unknown."""


class PluginError(MinigptError):
    """A plugin file or package could not be loaded."""


class TrustError(MinigptError):
    """A run folder brings code that this user has not trusted."""


class DataError(MinigptError):
    """A corpus is missing, too small, or not the expected content."""


class TokenizerError(MinigptError):
    """A tokenizer received text or ids outside its vocabulary."""


class RunError(MinigptError):
    """A run folder is missing, in use, or belongs to another experiment."""


class CheckpointError(RunError):
    """A checkpoint is incomplete, changed, or from another model."""


class CheckError(MinigptError):
    """A target to check cannot be found or built."""


class WriteError(MinigptError):
    """A file cannot be written: the disk is full or failing, or access is denied. The old content remains."""


class UnreadableError(MinigptError):
    """A file is missing, of the wrong kind, or damaged."""


class TooLargeError(MinigptError):
    """More memory or disk space is needed than is free."""


class PlanError(MinigptError):
    """A run cannot be trained as planned: minigpt's source, or a file that the plan froze, has changed."""


class DivergedError(MinigptError):
    """Training produced a loss or gradient that is not finite. Exit code 3."""


@dataclass(frozen=True)
class Problem:
    """One error in an experiment, and its path.

    Attributes:
        path: Keys and list indices from the top of the JSON document.
        text: The value found, the allowed values, the nearest name.
    """

    path: tuple[str | int, ...]
    text: str

    def under(self, *parents: str | int) -> Problem:
        """The same problem with its path inside a larger document."""
        return Problem((*parents, *self.path), self.text)

    def __str__(self) -> str:
        return f"{json_path(self.path)}: {self.text}" if self.path else self.text


class ExperimentError(MinigptError):
    """An experiment cannot be read, or its settings contradict each other.

    Attributes:
        problems: All errors found, one line each.
        source: The file that it was read from, or a word for another source.
    """

    def __init__(self, problems: Sequence[Problem], source: str | None = None):
        self.problems = tuple(problems)
        self.source = source
        prefix = f"{source}: " if source else ""
        super().__init__("\n".join(f"{prefix}{problem}" for problem in self.problems))

    def __reduce__(self) -> tuple[type[ExperimentError], tuple[tuple[Problem, ...], str | None]]:
        """An exception that comes from another process is made of its arguments, and not of its text."""
        return type(self), (self.problems, self.source)


def json_path(path: Iterable[str | int]) -> str:
    """A path as text: `model.layers[2].attention.window`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: `; did you mean "gqa"?`, or an empty text if no known name is close."""
    choices = list(known)
    folded = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(name.casefold().replace("-", "_"), list(folded), n=1, cutoff=0.6)
    return f'; did you mean "{folded[close[0]]}"?' if close else ""


def listing(names: Iterable[str]) -> str:
    """Known names for an error message, sorted and separated by commas; `none` when there are none."""
    return ", ".join(sorted(names)) or "none"


def command_line(*words: str | os.PathLike[str]) -> str:
    """A minigpt command as typed in a shell: `minigpt resume 'my runs/small/seed-1'`.

    Args:
        words: Arguments of `minigpt`. A path that begins with a dash is not taken for an option.
    """
    typed = (f"./{word}" if not isinstance(word, str) and str(word).startswith("-") else str(word) for word in words)
    return shlex.join(["minigpt", *typed])


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 token`, `2 tokens`, `1,000 tokens`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
