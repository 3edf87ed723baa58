"""Where a run's numbers come from: code, data, machine, command."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import minigpt
from minigpt import plugins
from minigpt.data import Corpus, TokenStream, entropies, tokenizer_fingerprint
from minigpt.entries import source_file
from minigpt.experiment import Experiment
from minigpt.run import git

_CORE = (
    "contracts",
    "data.py",
    "decoding.py",
    "elementwise.py",
    "kernels.py",
    "recurrence.py",
    "model.py",
    "training",
)  # what every run's numbers pass through


def provenance(experiment: Experiment, corpus: Corpus, *, device: torch.device, precision: str) -> dict[str, Any]:
    """Everything that is written to provenance.json when a run begins."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [os.fsencode(word).decode("utf-8", "backslashreplace") for word in sys.argv],
        "versions": {
            "minigpt": minigpt.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": device.type,
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
        "precision": precision,
        "experiment": experiment_fingerprint(experiment),
        "data": {
            "fingerprint": corpus.fingerprint,
            "tokenizer": tokenizer_fingerprint(corpus),
            "vocab_size": corpus.vocab_size,
            "entropies": entropies(corpus),
            "train_tokens": len(corpus.train.ids) if isinstance(corpus.train, TokenStream) else corpus.train.n_targets,
        },
        "evaluation": {
            "split": "validation, whole",
            "targets": corpus.val.n_targets,
            "bytes": corpus.val_bytes,
            "window": experiment.model.block_size,
            "stride": experiment.model.block_size,
        },
        "core": plugins.combined_fingerprint([Path(__file__).parents[1] / name for name in _CORE]),
        "components": components(experiment),
        "git": git.state(),
    }


def experiment_fingerprint(experiment: Experiment) -> str:
    """SHA-256 of everything the experiment says; plugin files have fingerprints of their own."""
    document = {**experiment.to_json(), "plugins": []}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def components(experiment: Experiment) -> list[dict[str, Any]]:
    """For every component used, shipped ones too: its source file, the SHA-256 of its source, and its package."""
    rows = []
    for spec in experiment.specs():
        file = source_file(spec.cls)
        row: dict[str, Any] = {
            "component": f"{spec.family}/{spec.name}",
            "file": str(file) if file else None,
            # None where the class was typed in: there is no file that could be compared later
            "sha256": _source_fingerprint(spec.cls) if file else None,
            **_distribution(spec.cls),
        }
        if row not in rows:
            rows.append(row)
    return rows


def changed_since(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between a run's provenance and the present that could change its numbers, a line each."""
    lines = []
    if recorded.get("experiment") != now["experiment"]:
        lines.append("experiment.json")
    sources = {row["component"]: row["sha256"] for row in now["components"]}
    for row in recorded["components"]:
        if sources.get(row["component"]) != row["sha256"]:
            lines.append(f"the source of {row['component']} ({row['file']})")
    if recorded["core"] != now["core"]:
        lines.append("minigpt's model or training code")
    pairs = {
        "the data": ("data", "fingerprint"),
        "the tokenizer": ("data", "tokenizer"),
        "torch": ("versions", "torch"),
        "numpy": ("versions", "numpy"),
        "the device": ("machine", "device"),
        "the number of threads": ("machine", "threads"),
    }
    for words, (section, key) in pairs.items():
        before, after = recorded[section][key], now[section][key]
        if before != after:
            lines.append(f"{words} ({before} then, {after} now)")
    return lines


def _source_fingerprint(cls: type) -> str:
    """Of a plugin's class, what the whole plugin was when it was loaded; of another's, its files as they are."""
    plugin = plugins.plugin_of(cls)
    return plugin.sha256 if plugin else plugins.combined_fingerprint(_sources(cls))


def _sources(cls: type) -> list[Path]:
    """The files that a component's behaviour stands in: its class's and its base classes'; a foreign package whole."""
    found: list[Path] = []
    for kind in cls.__mro__:
        top = kind.__module__.partition(".")[0]
        if top in ("builtins", "abc", "typing", "torch"):
            continue
        package = sys.modules[top]
        foreign = top not in ("minigpt", plugins.FILE_PACKAGE) and hasattr(package, "__path__")
        place = Path(package.__file__).parent if foreign and package.__file__ else source_file(kind)
        if place and place not in found:
            found.append(place)
    return found


def _distribution(cls: type) -> dict[str, str | None]:
    top = cls.__module__.partition(".")[0]
    if top == "minigpt":
        return {"distribution": "minigpt-lab", "version": minigpt.__version__}
    names = plugins.distributions_of(top)
    return {"distribution": names[0], "version": version(names[0])} if names else {"distribution": None, "version": None}


def processor() -> str:
    """The model of this machine's processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
