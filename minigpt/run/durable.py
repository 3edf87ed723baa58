"""Writing files so that a crash leaves the old content or the new, never half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def sync_file(path: Path) -> None:
    """Force a file's content to the disk."""
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Force a folder's entries to the disk (only POSIX systems can)."""
    if os.name == "posix":
        sync_file(path)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content as a whole."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    sync_file(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content by a JSON document."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
