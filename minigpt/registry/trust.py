"""Which plugins may be executed without a question: a person named, ran or checked them here, and they are known by hash.

The store is a folder with one small file for each SHA-256. Only what a run folder brings along is looked up in it: a
plugin that a person names is executed, and remembered.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

from minigpt.errors import TrustError, WriteError
from minigpt.printable import printable_line
from minigpt.system.files import write_json

_FOLDER, _WITHOUT_STORE = "MINIGPT_CONFIG", "MINIGPT_TRUSTED"
_announced: dict[str, str] = {}  # SHA-256 by real path
_of_parent: dict[str, str] = {}  # likewise, of what the process that started this one announced


def store() -> Path:
    """The folder of remembered plugins: below `$MINIGPT_CONFIG`, or in the user's configuration folder."""
    override = os.environ.get(_FOLDER)
    root = Path(override) if override else Path(platformdirs.user_config_dir("minigpt", appauthor=False))
    return root / "trusted"


def is_trusted(sha256: str) -> bool:
    """Whether a plugin of this content was named, run, checked or trusted here before."""
    return sha256 in os.environ.get(_WITHOUT_STORE, "").split() or os.path.isfile(store() / sha256)


def remember(sha256: str, path: Path) -> None:
    """Trust a plugin from now on.

    Where the store cannot be written, this process and its children know it, and that is reported once.
    """
    if is_trusted(sha256):
        return
    try:
        store().mkdir(parents=True, exist_ok=True)
        write_json(store() / sha256, {"plugin": str(path)})
    except (OSError, WriteError):
        if is_trusted(sha256):  # another process was faster
            return
        known = os.environ.get(_WITHOUT_STORE, "")
        if not known:
            _report(f"{store()} cannot be written: plugins are trusted until this process ends, and not remembered")
        os.environ[_WITHOUT_STORE] = f"{known} {sha256}".strip()  # children inherit it


def allow(plugins: Sequence[tuple[Path, str]], *, trust: bool) -> None:
    """See that plugins which a run folder names may be executed, all of them or none, and print their names and hashes.

    Args:
        plugins: Paths and SHA-256 of what is about to be executed.
        trust: Whether the person asked for it; they are remembered then.

    Raises:
        TrustError: One is unknown here, and nobody asked for it.
    """
    unknown = [(path, sha256) for path, sha256 in plugins if not is_trusted(sha256)]
    if unknown and not trust:
        files = ", ".join(f"{path} (SHA-256 {sha256})" for path, sha256 in unknown)
        raise TrustError(
            f"not executed: {files}; a run folder brings it, and it was never named, run or checked here. "
            "Read it, then give --trust (in Python: trust=True), which remembers it; --no-plugins executes none"
        )
    announce(plugins)
    for path, sha256 in unknown:
        remember(sha256, path)


def announce(plugins: Sequence[tuple[Path, str]]) -> None:
    """Print the names and hashes of plugins before they are executed, each once in a process and those that it starts.

    Raises:
        TrustError: The process that started this one read other content from the same file.
    """
    for path, sha256 in plugins:
        place = os.path.realpath(path)
        expected = _of_parent.get(place, sha256)
        if sha256 != expected:
            raise TrustError(
                f"not executed: {place} was edited meanwhile (SHA-256 {sha256}; {expected} was announced); "
                "give the same command again"
            )
        if _announced.get(place) != sha256:
            _announced[place] = sha256
            _report(f"plugin: {place} (SHA-256 {sha256})")


def announced() -> dict[str, str]:
    """SHA-256 of the plugins that this process has announced, by real path: what a child is given for `expect`."""
    return dict(_announced)


def expect(announced: Mapping[str, str]) -> None:
    """In a process that another one started: what that one announced is executed as it was then, and not announced again."""
    _announced.update(announced)
    _of_parent.update(announced)


def _report(line: str) -> None:
    print(printable_line(line), file=sys.stderr)
