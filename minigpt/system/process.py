"""The one way to start a Python of our own: it imports from where this one does, but never from the working folder.

`python -m` and `python -c` put the working folder first on the path, and an empty entry of PYTHONPATH means it too: a
`random.py` that lies in a folder of downloads would be executed in place of Python's. What children start in their turn
inherits this. Only where minigpt itself was imported from the working folder (`python -m minigpt` in a clone) does that
folder stay on the path, for there the program is what lies in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOME = str(Path(__file__).resolve().parents[2])


def python(*arguments: str) -> list[str]:
    """The command of a Python with these arguments, such as `-m` and a module; to be started with `environment()`."""
    return [sys.executable, "-P", *arguments]


def environment(**changes: str) -> dict[str, str]:
    """The variables of such a process: ours, with these changes."""
    return {**os.environ, **_isolation(), **changes}


@contextmanager
def spawning_isolated() -> Iterator[None]:
    """What `multiprocessing` spawns within it is isolated likewise: it takes variables and path from this process."""
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
    """Folders that a child imports from, in the order of this process."""
    here = os.path.realpath(os.getcwd())
    return [path for path in sys.path if path and (os.path.realpath(path) != here or here == _HOME)]


def _isolation() -> dict[str, str]:
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(search_path())}
