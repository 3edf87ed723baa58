"""The ledger: every verdict that was given in a folder of comparisons, and which of them survive how often was asked.

`ledger.jsonl` has a line for each question: is this variant different from this base? The same runs are the same question,
however often they are compared. More seeds, another size and newly trained runs are a new question. A question stays when
the folder of its comparison is deleted. Each line contains a digest of its text and of all lines before, so that an edited
or removed line is noticed. `minigpt.lab.statistics.discoveries` gives each question its level.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from minigpt.errors import RunError, UnreadableError, WriteError
from minigpt.lab.sealed import Count, Name, Number, Part, Text
from minigpt.lab.statistics import Kind, discoveries
from minigpt.registry.problems import first_problem
from minigpt.system.files import read_bytes, write_bytes

FILE = "ledger.jsonl"
"""Name of the ledger in a folder of comparisons."""

_AGAIN = "Restore a copy of it; or move it away, which forgets what was asked"
_MAX_BYTES = 1 << 28
_WAIT_SECONDS = 60


class Question(Part):
    """A verdict on one variant.

    Attributes:
        comparison: Folder of the comparison.
        base: Name of the base.
        variant: Name of the variant.
        key: Digest of the runs that were compared.
        seeds: Number of seeds.
        mean: Mean difference to the base.
        kind: The verdict.
        family: Number of variants that were judged together.
        p: p-value of no difference, without the correction for other variants, which the ledger does.
    """

    comparison: Text
    base: Name
    variant: Name
    key: Text
    seeds: Count
    mean: Number
    kind: Kind
    family: Count
    p: Annotated[float, Field(ge=0, le=1)]


class Entry(Question):
    """A line of the ledger.

    Attributes:
        number: Its number, from 1.
        call: Number of the comparison that asked, from 1. Its questions share runs, so their levels do not depend on each
            other's answers (Zrnic, Ramdas & Jordan 2021, arXiv:1812.05068: a conflict set).
        time: When it was written, in UTC.
        level: The largest p-value that survives.
        chain: Digest of this entry and of the chain of the entry before.
    """

    number: Count
    call: Count
    time: Text
    level: Annotated[float, Field(ge=0, le=1)]
    chain: Text = ""

    @property
    def survives(self) -> bool:
        """Whether the variant differs, also considering how often was asked."""
        return self.kind in ("better", "worse") and self.p <= self.level

    def after(self, chain: str) -> Entry:
        """The entry with its chain, if the entry before has this one."""
        content = json.dumps(self.model_dump(mode="json", exclude={"chain"}))
        return self.model_copy(update={"chain": hashlib.sha256(f"{chain}{content}".encode("ascii")).hexdigest()})


@dataclass(frozen=True)
class Ledger:
    """All questions that were asked in a folder, in order."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def read(cls, file: Path) -> Ledger:
        """Read a ledger; without the file, an empty one.

        Raises:
            RunError: A line is damaged, or lines were edited or removed.
        """
        try:
            content = read_bytes(file, _MAX_BYTES).decode("ascii") if file.exists() else ""
        except (UnreadableError, UnicodeDecodeError) as error:
            raise RunError(f"{file} cannot be read as a ledger: {error}. {_AGAIN}") from error
        entries: list[Entry] = []
        for number, line in enumerate(content.splitlines(), 1):
            try:
                entry = Entry.model_validate_json(line)
            except ValidationError as error:
                raise RunError(f"{file}, line {number} is damaged: {first_problem(error)}. {_AGAIN}") from error
            if entry.number != number or entry != entry.after(_last_chain(entries)):
                raise RunError(f"{file}, line {number}: this line was edited, or one before it was removed. {_AGAIN}")
            entries.append(entry)
        return cls(tuple(entries))

    def find(self, key: str) -> Entry | None:
        """The entry of the runs with this digest; None if they were not asked about."""
        return next((entry for entry in self.entries if entry.key == key), None)

    def next_level(self, further: int = 1) -> float:
        """The level of the next question; of the question after it for `further=2`, and so on."""
        last_of_call = {entry.call: entry.number for entry in self.entries}
        found = [last_of_call[entry.call] for entry in self.entries if entry.survives]
        return discoveries.level(len(self.entries) + further, found)

    def asking(self, questions: Sequence[Question]) -> Ledger:
        """This ledger with the questions of one comparison that are new."""
        call = self.entries[-1].call + 1 if self.entries else 1
        entries = list(self.entries)
        for question in questions:
            if any(entry.key == question.key for entry in entries):
                continue
            entry = Entry(
                **question.model_dump(),
                number=len(entries) + 1,
                call=call,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                level=self.next_level(len(entries) - len(self.entries) + 1),
            )
            entries.append(entry.after(_last_chain(entries)))
        return Ledger(tuple(entries))


def ask(file: Path, questions: Sequence[Question]) -> Ledger:
    """Add the questions of one comparison to a ledger, except those that it has already.

    The file is replaced as a whole, so that a killed process leaves the old or the new one. Another process that writes
    meanwhile waits.

    Raises:
        RunError: The ledger is damaged, or another process has held it for a minute.
        WriteError: It cannot be written.
    """
    lock = FileLock(file.with_name(f".{file.name}.lock"), timeout=_WAIT_SECONDS)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            known = Ledger.read(file)
            asked = known.asking(questions)
            if asked != known:
                write_bytes(file, _lines(asked))
            return asked
    except Timeout as error:
        raise RunError(f"{file} has been in use by another process for a minute; stop it, and repeat the command") from error
    except OSError as error:
        raise WriteError(f"{file} cannot be written: {error.strerror}") from error


def shown(p: float, level: float) -> tuple[str, str]:
    """A p-value and its level, with as many digits as show which is larger."""
    pairs = ((f"{p:.{digits}g}", f"{level:.{digits}g}") for digits in range(2, 18))
    return next(pair for pair in pairs if (float(pair[0]) <= float(pair[1])) == (p <= level))


def _last_chain(entries: Sequence[Entry]) -> str:
    return entries[-1].chain if entries else ""


def _lines(ledger: Ledger) -> bytes:
    return "".join(f"{json.dumps(entry.model_dump(mode='json'))}\n" for entry in ledger.entries).encode("ascii")
