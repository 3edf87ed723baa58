"""Time whole processes that do little: the delay that a user waits for with every command."""

from __future__ import annotations

import subprocess
import tempfile
from functools import partial
from pathlib import Path

from minigpt.errors import MinigptError
from minigpt.lab.bench.timing import Timing, measure
from minigpt.system import process

_SCRIPT = "import sys; from minigpt.cli import main; sys.exit(main())"  # what the installed script `minigpt` does

COMMANDS = {
    'python -c ""': ("",),
    'python -c "import minigpt"': ("import minigpt",),
    "minigpt --help": (_SCRIPT, "--help"),
    "minigpt list": (_SCRIPT, "list"),
    "minigpt show FILE": (_SCRIPT, "show", "documented.json", "--vocab-size", "65"),
}
"""Timed commands: code and arguments for Python, by the text in the table. FILE is the documented experiment."""


def measure_startup(repeats: int) -> dict[str, Timing]:
    """Seconds of each of `COMMANDS` from start to end, after one warm-up, with the current Python.

    Raises:
        MinigptError: A command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "documented.json").write_text("{}", encoding="utf-8")
        return {words: measure(partial(_run, words, code, folder), repeats=repeats) for words, code in COMMANDS.items()}


def _run(words: str, code: tuple[str, ...], folder: str) -> None:
    done = subprocess.run(
        process.python("-c", *code),
        cwd=folder,
        env=process.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise MinigptError(f"{words} ended with code {done.returncode}: {lines[-1]}")
