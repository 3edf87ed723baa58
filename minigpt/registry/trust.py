"""Trusted plugins: a person named, ran or checked them on this machine. Hashes identify them.

The store is a folder with one small file per SHA-256. Only plugins that a run folder names are looked up in it: a plugin
that a person names is executed and remembered.
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
_of_parent: dict[str, str] = {}  # the same, as announced by the parent process


def store() -> Path:
    """The folder of remembered plugins: below `$MINIGPT_CONFIG`, or in the user's configuration folder."""
    override = os.environ.get(_FOLDER)
    root = Path(override) if override else Path(platformdirs.user_config_dir("minigpt", appauthor=False))
    return root / "trusted"


def is_trusted(sha256: str) -> bool:
    """Whether a plugin with this content was named, run, checked or trusted on this machine before."""
    return sha256 in os.environ.get(_WITHOUT_STORE, "").split() or os.path.isfile(store() / sha256)


def remember(sha256: str, path: Path) -> None:
    """Trust a plugin from now on.

    If the store cannot be written, only this process and its children trust it, which is reported once.
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
    """Allow plugins that a run folder names, all of them or none, and print their names and hashes.

    Args:
        plugins: Paths and SHA-256 of the plugins.
        trust: Whether the user trusts unknown ones, which are then remembered.

    Raises:
        TrustError: A plugin is unknown, and `trust` is False.
    """
    unknown = [(path, sha256) for path, sha256 in plugins if not is_trusted(sha256)]
    if unknown and not trust:
        files = ", ".join(f"{path} (SHA-256 {sha256})" for path, sha256 in unknown)
        raise TrustError(
            f"not executed: {files}; it comes from a run folder, and was never named, run or checked here. "
            "Read it, then give --trust (in Python: trust=True), which remembers it; --no-plugins executes none"
        )
    announce(plugins)
    for path, sha256 in unknown:
        remember(sha256, path)


def announce(plugins: Sequence[tuple[Path, str]]) -> None:
    """Print the names and hashes of plugins before they are executed.

    Each is printed once per process, including its children.

    Raises:
        TrustError: The parent process read other content from the same file.
    """
    for path, sha256 in plugins:
        place = os.path.realpath(path)
        expected = _of_parent.get(place, sha256)
        if sha256 != expected:
            raise TrustError(
                f"not executed: {place} was edited meanwhile (SHA-256 {sha256}; {expected} was announced); "
                "run the same command again"
            )
        if _announced.get(place) != sha256:
            _announced[place] = sha256
            _report(f"plugin: {place} (SHA-256 {sha256})")


def announced() -> dict[str, str]:
    """SHA-256 of the plugins that this process has announced, by real path; children pass it to `expect`."""
    return dict(_announced)


def expect(announced: Mapping[str, str]) -> None:
    """Set the plugins that the parent process announced; called in a child process.

    The child executes only these contents, and does not announce them again.
    """
    _announced.update(announced)
    _of_parent.update(announced)


def _report(line: str) -> None:
    print(printable_line(line), file=sys.stderr)
