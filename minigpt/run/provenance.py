"""Collect the provenance of a run: code, data, machine, command. Find what has changed since."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue

import minigpt
from minigpt.contracts import TokenStream
from minigpt.data import Corpus, entropies, tokenizer_fingerprint
from minigpt.experiment import Experiment
from minigpt.registry import REGISTRY, Spec, plugins
from minigpt.registry.spec import is_shipped, source_file
from minigpt.run import git
from minigpt.run.contents import contents_of, runs_opened_by
from minigpt.run.folder import RunFolder
from minigpt.run.identity import differing, settings_of
from minigpt.run.recorded import Component, Data, Evaluation, Machine, Provenance, Segment, Versions
from minigpt.run.sources import Sources
from minigpt.run.typed_in import typed_fingerprint

_IN_A_MODEL = ("attention", "position", "norm", "ffn", "block", "embedding", "init")
"""Families that a trained model computes with."""


def provenance(experiment: Experiment, corpus: Corpus, *, device: torch.device, precision: str) -> Provenance:
    """The provenance of a run that begins now.

    Args:
        experiment: The experiment as trained, except for its precision.
        corpus: The run's data.
        device: The device on which it is trained.
        precision: The precision that is used.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    sources, document = Sources(), experiment.to_file_json()
    document["training"]["precision"] = precision
    return Provenance(
        started=started,
        command=tuple(os.fsencode(word).decode("utf-8", "backslashreplace") for word in sys.argv),
        versions=Versions(
            minigpt=minigpt.__version__,
            python=platform.python_version(),
            torch=str(torch.__version__),
            numpy=np.__version__,
        ),
        machine=Machine(
            system=platform.platform(),
            processor=processor(),
            cores=os.cpu_count(),
            threads=torch.get_num_threads(),
            device=device.type,
            device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        ),
        precision=precision,
        experiment=settings_of(document),
        data=Data(
            fingerprint=corpus.fingerprint,
            documents=corpus.documents,
            tokenizer=tokenizer_fingerprint(corpus),
            vocab_size=corpus.vocab_size,
            entropies=entropies(corpus),
            notes=tuple(corpus.notes),
            train_tokens=len(corpus.train.ids) if isinstance(corpus.train, TokenStream) else corpus.train.n_targets,
        ),
        evaluation=Evaluation(
            split="validation, whole",
            targets=corpus.val.n_targets,
            bytes=corpus.val_bytes,
            window=experiment.model.block_size,
            stride=experiment.model.block_size,
        ),
        core=sources.core_fingerprint,
        components=components(experiment, sources),
        git=git.state(),
        segments=(Segment(from_update=0, started=started, changes=()),),
    )


def components(experiment: Experiment, sources: Sources) -> tuple[Component, ...]:
    """Every component that the run's numbers depend on: source file, SHA-256 of the source, and package."""
    rows: list[Component] = []
    for spec in experiment.specs():
        if spec.family == "sampler":  # not part of the identity, like the rest of `sampling` (LEFT_OUT)
            continue
        rows.append(_row(f"{spec.family}/{spec.name}", spec.cls, part_sha256(spec, sources)))
        rows += _shipped_parts_of_runs(spec, sources)
    return tuple(dict.fromkeys(rows))


def _row(component: str, cls: type, sha256: str) -> Component:
    file, (distribution, number) = source_file(cls), _distribution(cls)
    return Component(
        component=component, file=str(file) if file else None, sha256=sha256, distribution=distribution, version=number
    )


def _shipped_parts_of_runs(spec: Spec[object], sources: Sources) -> list[Component]:
    """The shipped parts of the models that a component opens, which compute with their present source.

    Plugins are executed as they were copied into the run, and are counted with its content.
    """
    recorded = [part.component for run in runs_opened_by(spec) for part in RunFolder(run).provenance().components]
    classes = {part: REGISTRY.entry(*part.split("/", 1)).cls for part in recorded if _is_in_a_model(part)}
    return [_row(part, cls, sources.part_fingerprint(cls)) for part, cls in classes.items() if is_shipped(cls)]


def _is_in_a_model(component: str) -> bool:
    family, _, name = component.partition("/")
    return family in _IN_A_MODEL and REGISTRY.has(family, name)


def part_sha256(spec: Spec[object], sources: Sources) -> str:
    """SHA-256 of what a component computes with.

    It covers the source of its class, or the compiled code of a class that has no file, and the content of the files and
    runs that its parameters name.
    """
    of_class = sources.part_fingerprint(spec.cls) if source_file(spec.cls) else typed_fingerprint(spec.cls)
    contents = contents_of(spec)
    return hashlib.sha256("\n".join([of_class, *contents]).encode()).hexdigest() if contents else of_class


@dataclass(frozen=True)
class Change:
    """A change of something that a run's numbers depend on.

    Attributes:
        what: The path of a setting, or a description.
        before: The recorded value.
        now: The present value.
        detail: A text in place of the two values.
    """

    what: str
    before: JsonValue = None
    now: JsonValue = None
    detail: str | None = None

    @property
    def line(self) -> str:
        """The change as one line, for messages and for the run's history."""
        if self.detail is not None:
            return f"{self.what}{self.detail}"
        before, now = (value if isinstance(value, str) else json.dumps(value) for value in (self.before, self.now))
        return f"{self.what} ({before} then, {now} now)"


def changed_since(recorded: Provenance, now: Provenance) -> list[Change]:
    """The changes since a run's provenance was recorded that could change its numbers."""
    changes = [Change(*difference) for difference in differing(recorded.experiment, now.experiment)]
    sources = now.sources()
    for part in recorded.components:
        if part.component in sources and sources[part.component] != part.sha256:
            changes.append(Change(f"the source of {part.component}", detail=f" ({part.file})"))
    if recorded.core != now.core:
        changes.append(Change("minigpt's model or training code", detail=""))
    documents = recorded.data.documents, now.data.documents
    values: list[tuple[str, JsonValue, JsonValue]] = [
        ("the data", recorded.data.fingerprint, now.data.fingerprint),
        *([("the documents", *documents)] if None not in documents else []),  # otherwise the batching changed
        ("the tokenizer", recorded.data.tokenizer, now.data.tokenizer),
        ("torch", recorded.versions.torch, now.versions.torch),
        ("numpy", recorded.versions.numpy, now.versions.numpy),
        ("the device", recorded.machine.device, now.machine.device),
        ("the number of threads", recorded.machine.threads, now.machine.threads),
    ]
    return [*changes, *(Change(*each) for each in values if each[1] != each[2])]


def _distribution(cls: type) -> tuple[str | None, str | None]:
    """The installed package that a class comes from, and its version."""
    top = cls.__module__.partition(".")[0]
    if top == "minigpt":
        return "minigpt-lab", minigpt.__version__
    names = plugins.distributions_of(top)
    return (names[0], version(names[0])) if names else (None, None)


def processor() -> str:
    """The model name of this machine's processor, if the system reports it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
