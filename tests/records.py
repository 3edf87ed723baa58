"""Complete artificial records of runs; a test changes the values that it needs."""

from __future__ import annotations

import json
from typing import Any

from minigpt.run import MetricsRow, Provenance

PROVENANCE: dict[str, Any] = {
    "format": 1,
    "started": "2026-11-28T00:00:00+00:00",
    "command": ["minigpt"],
    "versions": {"minigpt": "1", "python": "3.11", "torch": "2", "numpy": "1"},
    "machine": {"system": "any", "processor": "any", "cores": 2, "threads": 2, "device": "cpu", "device_name": None},
    "precision": "fp32",
    "experiment": {"seed": 1},
    "data": {
        "fingerprint": "d",
        "tokenizer": "t",
        "vocab_size": 3,
        "entropies": None,
        "notes": [],
        "train_tokens": 100,
        "documents": None,
    },
    "evaluation": {"split": "validation, whole", "targets": 10, "bytes": 10, "window": 8, "stride": 8},
    "core": "c",
    "components": [
        {"component": "norm/a", "file": "a.py", "sha256": "1", "distribution": "minigpt-lab", "version": "1"},
    ],
    "git": None,
    "folder": None,
    "segments": [{"from_update": 0, "started": "2026-11-28T00:00:00+00:00", "changes": []}],
}


def row(step: int, **numbers: float) -> MetricsRow:
    """The record of an update."""
    every = {"tokens": 64 * step, "seconds": 0.5 * step, "wall": 1.0 * step, "lr": 1e-3, "tokens_per_second": 128.0}
    return MetricsRow(step=step, **{**every, **numbers})  # type: ignore[arg-type]


def provenance_of(document: dict[str, Any]) -> Provenance:
    """A provenance from its JSON."""
    return Provenance.model_validate_json(json.dumps(document))
