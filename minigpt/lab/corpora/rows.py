"""The corpora that `compare --data` names, and the passes over their training text that `--epochs` asks for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minigpt.contracts import TokenStream
from minigpt.data import load_corpus, sequence_length, tokens_trained
from minigpt.errors import ExperimentError, MinigptError, count, listing, nearest
from minigpt.experiment import refusal_of_name
from minigpt.lab.compare.variants import Source, Variant, read_variant
from minigpt.numbers import as_typed
from minigpt.reading import Reading, read_experiment
from minigpt.reading.files import strict_json
from minigpt.registry import REGISTRY


@dataclass(frozen=True)
class Row:
    """One corpus of a study; each has a comparison.

    Attributes:
        name: Name of its comparison's folder.
        data: The dataset with all of its parameters, as in an experiment file.
        passes: How often training passes over its text; None if that was not asked for.
    """

    name: str
    data: dict[str, Any]
    passes: float | None = None

    @property
    def setting(self) -> str:
        """The corpus in the form of `--set`."""
        return f"data={json.dumps(self.data)}"


def rows_of(base: Variant, data: str | None, epochs: str | None, reading: Reading) -> list[Row]:
    """The rows of a study: each corpus, with each number of passes.

    Args:
        base: The base; its data are used without `data`, and its budget decides how much text gives a number of passes.
        data: Names of datasets, text files or folders, and JSON objects, separated by commas.
        epochs: Numbers of passes over the training text, separated by commas.
        reading: How the base was read.

    Raises:
        MinigptError: An entry is no corpus or no number, or the text is too short for so few passes.
    """
    written = [base.experiment.data.to_json()] if data is None else [_dataset(entry, reading) for entry in _entries(data)]
    if not written:
        raise MinigptError(f'--data: found "{data}"; {_ALLOWED}')
    if len({json.dumps(each, sort_keys=True) for each in written}) < len(written):
        raise MinigptError(f'--data: found "{data}", in which a corpus is named twice; name each once')
    rows: list[Row] = []
    for each in written:
        rows.append(Row(_free_name(_name(each), [row.name for row in rows]), each))
    if epochs is None:
        return rows
    numbers = _numbers(epochs)
    return [regime for row in rows for regime in _regimes(row, numbers, base.source, reading)]


def _entries(option: str) -> Iterator[str]:
    """The parts of an option between commas; a JSON object is one part."""
    rest = option.strip()
    while rest:
        end = rest.find(",") if "," in rest else len(rest)
        if rest.startswith("{"):
            try:
                _, end = json.JSONDecoder().raw_decode(rest)
            except ValueError as error:
                raise MinigptError(f"--data: found {rest}, which is no JSON ({error}); {_ALLOWED}") from error
        entry, rest = rest[:end].strip(), rest[end:].strip()
        if not entry or not (rest.startswith(",") or not rest) or rest == ",":
            raise MinigptError(f'--data: found "{option}"; {_ALLOWED}')
        yield entry
        rest = rest.removeprefix(",").lstrip()


_ALLOWED = "allowed: names of datasets, text files and JSON objects, with commas between them"


def _dataset(entry: str, reading: Reading) -> dict[str, Any]:
    """A dataset with all of its parameters, so that none of the base's own remains."""
    value: Any = {"name": entry}
    if entry.startswith("{"):
        try:
            value = strict_json(entry)
        except ValueError as error:
            raise MinigptError(f"--data: {entry}: {error}") from error
    elif not REGISTRY.has("dataset", entry):
        if not Path(entry).exists():
            known = [each.name for each in REGISTRY.entries("dataset")]
            raise MinigptError(
                f'--data: "{entry}" is neither a dataset nor a file; datasets: {listing(known)}{nearest(entry, known)}'
            )
        value = {"name": "text", "paths": [entry]}
    try:
        return read_experiment({"data": value}, reading.as_recorded()).data.to_json()
    except ExperimentError as error:
        raise ExperimentError(error.problems, "--data") from error


def _name(data: dict[str, Any]) -> str:
    """A folder's name for a dataset: that of its first file, or its own."""
    files = data.get("paths")
    words = Path(files[0]).stem if isinstance(files, list) and files and isinstance(files[0], str) else str(data["name"])
    name = re.sub("[^A-Za-z0-9._-]+", "-", words).strip("-._")[:60]
    return f"corpus-{name}".strip("-") if refusal_of_name(name) else name


def _free_name(name: str, taken: Sequence[str]) -> str:
    """The name, with a number if another row has it; some file systems ignore case."""
    names = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(each for each in names if each.casefold() not in map(str.casefold, taken))


def _numbers(epochs: str) -> list[float]:
    try:
        numbers = [float(part) for part in epochs.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise MinigptError(f'--epochs: found "{epochs}"; allowed: numbers above 0 with commas between them, such as 1,10')
    return list(dict.fromkeys(numbers))


def _regimes(row: Row, epochs: Sequence[float], base: Source, reading: Reading) -> list[Row]:
    """The corpus with as much training text as the budget passes over so many times; validation text does not change.

    Raises:
        MinigptError: The budget needs more text than there is.
    """
    experiment = read_variant(base, reading.with_overrides(row.setting)).experiment
    corpus = load_corpus(experiment)
    budget = tokens_trained(experiment, sequence_length(corpus, experiment))
    tokens = len(corpus.train.ids) if isinstance(corpus.train, TokenStream) else corpus.train.tokens.numel()
    fewest = budget / tokens
    rows = []
    for number in epochs:
        words = f"{as_typed(number)}-epoch{'' if number == 1 else 's'}"
        if number < fewest * (1 - 1e-6):
            raise MinigptError(
                f"--epochs {as_typed(number)}: the budget of {count(budget, 'token')} passes {fewest:.2f} times over the "
                f"training text of {row.name} ({tokens:,} tokens). Allowed: {math.ceil(100 * fewest) / 100:g} or more; or "
                "name a longer text, or fewer training.max_iters"
            )
        data = {"name": "shortened", "dataset": row.data, "fraction": min(1.0, float(f"{fewest / number:.6g}"))}
        rows.append(replace(row, name=f"{row.name}-{words}", data=data, passes=number))
    return rows
