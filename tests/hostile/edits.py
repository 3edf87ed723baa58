"""Changes to the files of a run by somebody who can also write its manifest, and how a command refuses them."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from tests.conftest import Command


def refused(minigpt: Command, *arguments: str | Path) -> str:
    """The error of a command, which must refuse its input without a traceback."""
    code, out, err = minigpt(*arguments)
    assert code == 2, (arguments, code, out, err)
    refusal = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("plugin: "))
    assert refusal.startswith("error: ")
    assert "Traceback" not in refusal
    return refusal


def header_of(value: Any, length: int | None = None) -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


DEEP = "[" * 100_000


def unfinished(run: Path) -> None:
    """Change the experiment as if four updates were missing."""
    experiment = run / "experiment.json"
    experiment.write_text(experiment.read_text().replace('"max_iters": 4', '"max_iters": 8'))


def with_weights(run: Path, content: bytes, name: str = "model.safetensors") -> Path:
    """The last checkpoint with other weights, and a manifest with their digests."""
    last = run / "checkpoints" / "step-00000004"
    (last / name).write_bytes(content)
    manifest = json.loads((last / "manifest.json").read_text())
    manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (last / "manifest.json").write_text(json.dumps(manifest))
    return last
