"""How long a whole process takes that does little: what a user waits for after every command."""

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
"""What is timed, by the words it is told by: code and arguments for Python. FILE is the documented experiment."""


def measure_startup(repeats: int) -> dict[str, Timing]:
    """Seconds of each of `COMMANDS` from start to end, after one to warm up, with the Python that runs this.

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
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise MinigptError(f"{words} ended with code {done.returncode}: {lines[-1]}")
