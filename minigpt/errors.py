"""What can go wrong for a user, as types; and the nearest-name hint that every such message carries."""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class MinigptError(Exception):
    """Base of every error a user can cause and mend. The command line prints it without a traceback, exit code 2."""


class RegistryError(MinigptError):
    """A component does not fit its family, or its name is taken or unknown."""


class PluginError(MinigptError):
    """A plugin file or package could not be loaded."""


class TrustError(MinigptError):
    """A run folder brings code along that nobody here has trusted."""


class DataError(MinigptError):
    """A corpus is missing, is not what was promised, or is too small."""


class TokenizerError(MinigptError):
    """A tokenizer met text or ids outside its vocabulary."""


class RunError(MinigptError):
    """A run folder is missing, busy, or belongs to something else."""


class CheckpointError(RunError):
    """A checkpoint is incomplete, altered, or from another model."""


class CheckError(MinigptError):
    """What was asked to be checked cannot be found or built."""


class WriteError(MinigptError):
    """A file could not be written: the disk is full or failing, or it may not be. What was there before still is."""


class UnreadableError(MinigptError):
    """A file is not there, not what it should be, or damaged."""


class TooLargeError(MinigptError):
    """More memory or disk is needed than there is."""


class PlanError(MinigptError):
    """A run cannot be trained as it was planned: minigpt's own source, or what the plan froze, was changed since."""


class DivergedError(MinigptError):
    """Training produced a loss or gradient that is not finite. Exit code 3."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an experiment, and where.

    Attributes:
        path: Keys and list indices from the top of the JSON document.
        text: What was found, what is allowed, the nearest name.
    """

    path: tuple[str | int, ...]
    text: str

    def under(self, *parents: str | int) -> Problem:
        """The same problem seen from further up the document."""
        return Problem((*parents, *self.path), self.text)

    def __str__(self) -> str:
        return f"{json_path(self.path)}: {self.text}" if self.path else self.text


class ExperimentError(MinigptError):
    """An experiment cannot be read, or says something impossible.

    Attributes:
        problems: Everything found wrong, one line each.
        source: The file it was read from, or a word for where it came from.
    """

    def __init__(self, problems: Sequence[Problem], source: str | None = None):
        self.problems = tuple(problems)
        self.source = source
        prefix = f"{source}: " if source else ""
        super().__init__("\n".join(f"{prefix}{problem}" for problem in self.problems))


def json_path(path: Iterable[str | int]) -> str:
    """Write a path the way people say it: `model.layers[2].attention.window`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: `; did you mean "gqa"?`, or nothing when nothing is close."""
    choices = list(known)
    folded = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(name.casefold().replace("-", "_"), list(folded), n=1, cutoff=0.6)
    return f'; did you mean "{folded[close[0]]}"?' if close else ""


def listing(names: Iterable[str]) -> str:
    """Known names for an error message, sorted and separated by commas; `none` when there are none."""
    return ", ".join(sorted(names)) or "none"


def command_line(*words: str | os.PathLike[str]) -> str:
    """A command of ours as one types it in a shell: `minigpt resume 'my runs/small/seed-1'`.

    Args:
        words: What follows `minigpt`. A path that begins with a dash is no option.
    """
    typed = (f"./{word}" if not isinstance(word, str) and str(word).startswith("-") else str(word) for word in words)
    return shlex.join(["minigpt", *typed])


def count(number: int, noun: str) -> str:
    """`1 token`, `2 tokens`, `1,000 tokens`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
