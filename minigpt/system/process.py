"""Start child Python processes that do not import from the working folder.

`python -m` and `python -c` put the working folder first on the path, and so does an empty entry of PYTHONPATH. A `random.py`
in a folder of downloads would then be executed instead of Python's. Children of children inherit the isolation. If minigpt
itself was imported from the working folder (`python -m minigpt` in a clone), the folder stays on the path, because the
program is in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOME = str(Path(__file__).resolve().parents[2])


def python(*arguments: str) -> list[str]:
    """The command line of a child Python with these arguments, such as `-m` and a module.

    Start it with `environment()`.
    """
    return [sys.executable, "-P", *arguments]


def environment(**changes: str) -> dict[str, str]:
    """The environment variables of a child Python: this process's variables with these changes."""
    return {**os.environ, **_isolation(), **changes}


@contextmanager
def spawning_isolated() -> Iterator[None]:
    """A context in which processes spawned by `multiprocessing` are isolated too.

    They inherit variables and path from this process.
    """
    isolation = _isolation()
    before, path = {name: os.environ.get(name) for name in isolation}, sys.path
    os.environ.update(isolation)
    sys.path = search_path()
    try:
        yield
    finally:
        sys.path = path
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def search_path() -> list[str]:
    """The folders that a child imports from, in this process's order."""
    here = os.path.realpath(os.getcwd())
    return [path for path in sys.path if path and (os.path.realpath(path) != here or here == _HOME)]


def _isolation() -> dict[str, str]:
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(search_path())}
