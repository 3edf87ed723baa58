"""Copies of a comparison's inputs, made when it begins: experiments, plugin files, tokenized corpora.

    COMPARISON/inputs/
      experiments/SHA256.json     the experiment as planned; names the copies of its plugins
      plugins/SHA256/NAME         a plugin file or folder
      corpora/SHA256.json         the state of the tokenizer, and the SHA-256 of the tensors
      tensors/SHA256.safetensors  the tokens of both splits

Each copy is named by the SHA-256 of its content. So variants share equal copies, and every copy is checked when it is
read. Editing an original file while a comparison runs does not change the comparison.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as serialized

from minigpt.contracts import TokenRows, TokenStream
from minigpt.data import Corpus, restore_tokenizer
from minigpt.errors import PlanError, PluginError, UnreadableError, WriteError
from minigpt.experiment import Experiment
from minigpt.reading import load_experiment
from minigpt.reading.named_plugins import refuse_edited
from minigpt.registry import plugins
from minigpt.run.packing import cpu_copy
from minigpt.system.files import json_bytes, read_bytes, read_object, write_bytes

_MAX_BYTES = 1 << 40


# ------------------------------------------------------------------------------------------------------------- writing


def freeze_experiment(folder: Path, experiment: Experiment) -> Path:
    """Write a copy of an experiment, with copies of its plugins as they were loaded.

    Raises:
        PluginError: A plugin was edited since it was loaded.
        WriteError: The disk is full or failing.
    """
    refuse_edited(experiment)
    document = experiment.to_json()
    document["plugins"] = [
        os.path.relpath(_freeze_plugin(folder, Path(file)), folder / "experiments") for file in experiment.plugins
    ]
    return _keep(folder / "experiments", json_bytes(document), ".json")


def freeze_corpus(folder: Path, corpus: Corpus) -> Path:
    """Write a tokenized corpus. Raises WriteError."""
    tensors = {
        f"{split}.{name}": cpu_copy(tensor)
        for split, stretch in (("train", corpus.train), ("val", corpus.val))
        for name, tensor in vars(stretch).items()
        if tensor is not None
    }
    document = {
        "tensors": _keep(folder / "tensors", serialized(tensors), ".safetensors").stem,
        "vocab_size": corpus.vocab_size,
        "tokenizer": None if corpus.tokenizer is None else corpus.tokenizer.to_json(),
        "fingerprint": corpus.fingerprint,
        "val_bytes": corpus.val_bytes,
        "documents": corpus.documents,
        "val_documents": corpus.val_documents,
        "notes": corpus.notes,
    }
    return _keep(folder / "corpora", json_bytes(document), ".json")


def _keep(folder: Path, content: bytes, suffix: str) -> Path:
    """The file with this content; it is written unless it exists."""
    file = folder / f"{hashlib.sha256(content).hexdigest()}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (file.is_file() and file.stat().st_size == len(content) and file.read_bytes() == content):
        write_bytes(file, content)
    return file


def _freeze_plugin(folder: Path, file: Path) -> Path:
    """The copy of a plugin as it was loaded; it is written unless it exists."""
    digest = plugins.fingerprint(file)
    place = folder / "plugins" / digest
    copy = place / file.name
    if not _is_whole(copy):
        new = place.with_name(f".{digest}.new")
        try:
            shutil.rmtree(new, ignore_errors=True)  # left by an interrupted attempt
            new.mkdir(parents=True)
            plugins.write_copy(file, new / file.name)
            shutil.rmtree(place, ignore_errors=True)  # a damaged copy
            new.rename(place)
        except OSError as error:
            raise WriteError(f"{place} cannot be written: {error.strerror}") from error
    return copy


def _is_whole(copy: Path) -> bool:
    """Whether the copy of a plugin is intact: its fingerprint is its folder's name."""
    try:
        return plugins.fingerprint(copy) == copy.parent.name
    except PluginError:  # it is missing or unreadable
        return False


# ------------------------------------------------------------------------------------------------------------- reading


def frozen_experiment(file: Path, seed: int, *, allow_plugins: bool = True) -> Experiment:
    """Read an experiment that `freeze_experiment` wrote, with this seed.

    Raises:
        PlanError: The experiment or a plugin was changed since.
    """
    _check(file, _content(file))
    for named in read_object(file)["plugins"]:
        copy = Path(os.path.normpath(file.parent / named))
        if not _is_whole(copy):
            raise PlanError(_changed(copy))
    return load_experiment(file, overrides=[f"seed={seed}"], allow_plugins=allow_plugins)


def frozen_corpus(file: Path, experiment: Experiment) -> Corpus:
    """Read a corpus that `freeze_corpus` wrote.

    Args:
        file: The path that `freeze_corpus` returned.
        experiment: The experiment, which names the tokenizer.

    Raises:
        PlanError: The corpus was changed since.
    """
    _check(file, _content(file))
    document = read_object(file, _MAX_BYTES)
    beside = file.parents[1] / "tensors" / f"{document['tensors']}.safetensors"
    content = _content(beside)
    _check(beside, content)
    try:
        tensors = tensors_of(content)
    except SafetensorError as error:
        raise PlanError(_changed(beside)) from error
    learned = document["tokenizer"]
    return Corpus(
        train=_split(tensors, "train"),
        val=_split(tensors, "val"),
        vocab_size=document["vocab_size"],
        tokenizer=None if learned is None else restore_tokenizer(experiment, learned),
        fingerprint=document["fingerprint"],
        val_bytes=document["val_bytes"],
        notes=tuple(document["notes"]),
        documents=document["documents"],
        val_documents=None if document["val_documents"] is None else tuple(document["val_documents"]),
    )


def _split(tensors: dict[str, torch.Tensor], name: str) -> TokenStream | TokenRows:
    parts = {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
    return TokenStream(**parts) if "ids" in parts else TokenRows(**parts)


def _content(file: Path) -> bytes:
    try:
        return read_bytes(file, _MAX_BYTES)
    except UnreadableError as error:
        raise PlanError(f"{error}; run the command again to make a new copy") from error


def _check(file: Path, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != file.stem:
        raise PlanError(_changed(file))


def _changed(file: Path) -> str:
    return f"{file} was changed since the comparison wrote it; run the command again to make a new copy"
