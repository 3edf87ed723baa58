"""Make sources from the words of a command: settings for one variant (`--set NAME:PATH=VALUE`), and `--grid`."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import JsonValue

from minigpt.errors import MinigptError, listing, nearest
from minigpt.experiment import Experiment, refusal_of_name
from minigpt.lab.compare.variants import Source, runs_in
from minigpt.reading.files import read_chain, strict_json

_LONGEST = 90  # characters of a made name, before the digest
_SHARED = {"name": "variants are named by their values", "seed": "all variants have the same seeds, see --seeds"}


def sources_from(
    files: Sequence[Path], changes: Sequence[str] = (), grids: Sequence[str] = ()
) -> tuple[list[Source], tuple[str, ...]]:
    """The sources that a command names, and the settings for all of them.

    Each file is a source as it is written. After it come the sources that `--grid` makes from it: one for each combination
    of values. Those that equal the file are left out when they are read. Settings for a file's name are also those of the
    sources made from it.

    Args:
        files: Experiment files and run folders; the base first.
        changes: Words of `--set`: `PATH=VALUE` is for all, `NAME:PATH=VALUE` for one variant.
        grids: Words of `--grid`: `PATH=v1,v2` is for each file, `NAME:PATH=v1,v2` for one of them.

    Raises:
        MinigptError: A word has another form, or names no variant.
    """
    if not grids and not any(":" in change.partition("=")[0] for change in changes):
        return [Source(file) for file in files], tuple(changes)
    named = [(file, _name_of(file)) for file in files]
    axes = [(_addressed("--grid", grid, {name for _, name in named})) for grid in grids]
    made = [
        (file, name, *each)
        for file, name in named
        for each in [(name, ()), *_combined(name, [grid for owner, grid in axes if owner in (None, name)])]
    ]
    known = {made_name for _, _, made_name, _ in made}
    settings = [_addressed("--set", change, known) for change in changes]

    def own(name: str) -> list[str]:
        return [setting for owner, setting in settings if owner == name]

    sources = [
        Source(file, (*own(name), *values, *own(made_name)), made_name, optional=True)
        if values
        else Source(file, tuple(own(name)))
        for file, name, made_name, values in made
    ]
    return sources, tuple(setting for owner, setting in settings if owner is None)


def _name_of(source: Path) -> str:
    """The name in an experiment file or in the record of a run. No plugin is executed."""
    file = runs_in(source)[0].path / "experiment.json" if source.is_dir() else source
    return str(read_chain(file, ())[-1]["name"])


def _addressed(option: str, word: str, names: Collection[str]) -> tuple[str | None, str]:
    """The variant that a word of an option begins with, and the rest; None if the word is for all.

    What stands before the first colon of the path is a variant's name, unless it is the beginning of a path: keys of an
    object in an experiment may contain colons.
    """
    name, colon, _ = word.partition("=")[0].partition(":")
    if not colon or (name not in names and name.split(".")[0].strip() in Experiment.model_fields):
        return None, word
    if name not in names:
        raise MinigptError(f'{option} {word}: there is no variant "{name}"; allowed: {listing(names)}{nearest(name, names)}')
    return name, word.removeprefix(f"{name}:")


def _combined(name: str, grids: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The variants that a file's grids make: a name and settings for each combination of values."""
    if not grids:
        return []
    axes = [path_and_values("--grid", grid) for grid in grids]
    twice = [path for path, number in Counter(path for path, _ in axes).items() if number > 1]
    if twice:
        raise MinigptError(f"--grid {twice[0]} is given more than once for {name}; name all its values in one --grid")
    paths = [path for path, _ in axes]
    for path in (path for path in paths if path in _SHARED):
        raise MinigptError(f"--grid {path} makes no variants: {_SHARED[path]}. Name another setting")
    combined = [list(zip(paths, values, strict=True)) for values in itertools.product(*(values for _, values in axes))]
    return [
        (made, tuple(f"{path}={value}" for path, value in settings))
        for made, settings in zip(made_names(name, combined), combined, strict=True)
    ]


def path_and_values(option: str, word: str) -> tuple[str, tuple[str, ...]]:
    """The path and the values of `PATH=v1,v2`.

    Raises:
        MinigptError: It has another form.
    """
    path, _, text = word.partition("=")
    values = split_values(text)
    if not all((path.strip(), *values)):
        raise MinigptError(f'{option}: found "{word}"; allowed: PATH=v1,v2, such as model.attention=mha,gqa')
    return path.strip(), values


def split_values(text: str) -> tuple[str, ...]:
    """Values that are separated by commas. Each is JSON, with any commas inside, or text without commas."""
    decode = json.JSONDecoder().raw_decode
    values, start = [], 0
    while start <= len(text):
        end = text.find(",", start) if "," in text[start:] else len(text)
        with contextlib.suppress(ValueError, RecursionError):
            begin = len(text) - len(text[start:].lstrip())
            rest = text[decode(text, begin)[1] :].lstrip()
            if not rest or rest.startswith(","):
                end = len(text) - len(rest)
        values.append(text[start:end].strip())
        start = end + 1
    return tuple(values)


def value_of(text: str) -> JsonValue:
    """The value that a word of `--set` means: JSON, or the text itself."""
    try:
        value: JsonValue = strict_json(text)
    except (ValueError, RecursionError):
        return text
    return value


def made_names(name: str, combined: Sequence[Sequence[tuple[str, str]]]) -> list[str]:
    """Names for variants that are made from one: `base-gqa`, `base-learning_rate-0.001`.

    A name depends only on its own settings, so that a run keeps its folder when other values are added. Where the settings
    cannot be part of a folder's name, or two names would be equal, a digest of the settings makes the name unique.

    Args:
        name: The variant's name.
        combined: For each made variant its settings, as paths and values.
    """
    plain = [_plain_name(name, settings) for settings in combined]
    is_twice = {made for made, number in Counter(plain).items() if number > 1}
    return [
        _with_digest(name, settings) if made is None or made in is_twice else made
        for made, settings in zip(plain, combined, strict=True)
    ]


def _words(name: str, settings: Sequence[tuple[str, str]]) -> list[str]:
    """The words of a made name. A text explains itself; before another value stands the last step of its path."""
    words = [name]
    for path, text in settings:
        value = value_of(text)
        words += [value] if isinstance(value, str) else [path.rpartition(".")[2], text]
    return words


def _plain_name(name: str, settings: Sequence[tuple[str, str]]) -> str | None:
    made = "-".join(_words(name, settings))
    return None if len(made) > _LONGEST or refusal_of_name(made) else made


def _with_digest(name: str, settings: Sequence[tuple[str, str]]) -> str:
    digest = hashlib.sha256(json.dumps([name, *settings]).encode()).hexdigest()
    words = (re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-.") for word in _words(name, settings))
    return f"{'-'.join(filter(None, words))[:_LONGEST]}-{digest[:8]}"
