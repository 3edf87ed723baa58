"""What every dataset must satisfy."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.check.parameters import parameter_sets
from minigpt.check.properties.surroundings import built, elsewhere, outcome_in_another_process, random_states_kept
from minigpt.check.property import NotTried, Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.components.dataset.overlap import rows_in_both, text_overlap
from minigpt.contracts import Dataset, Sequences, Splits
from minigpt.errors import DataError
from minigpt.system.download import RemoteFile, cached

_SECONDS = 3.0
"""After that, no more parameters are tried for repeatability: a large corpus takes its time."""


@dataclass(frozen=True)
class Case:
    """One thing to try a dataset with.

    Attributes:
        params: Parameters that are not the defaults.
    """

    params: Mapping[str, Any] = field(default_factory=dict)


def _cases(target: Target) -> list[Case]:
    return [Case(_files_apart(target, params)) for params in parameter_sets(target)]


def _defaults(target: Target) -> list[Case]:
    return _cases(target)[:1]


def _files_apart(target: Target, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, each path its own file: training and validation on one file would be the user's mistake."""
    assert target.entry is not None
    paths = [name for name in params if name in target.entry.path_params]
    return {**params, **{name: _another_file(params[name], number) for number, name in enumerate(paths) if number}}


def _another_file(path: Any, number: int) -> Any:
    if isinstance(path, list):
        return [_another_file(each, number) for each in path]
    file = Path(path).with_name(f"text-{number}.txt")
    file.write_text("".join(f"{n} and {number} make {n + number}.\n" for n in range(1000)), "utf-8")
    return str(file)


def _dataset(target: Target, params: Mapping[str, Any]) -> Dataset:
    assert target.entry is not None
    remote: RemoteFile | None = getattr(target.entry.cls, "remote", None)
    if remote is not None and not cached(remote):
        raise NotTried(f"{remote.name} is not here: minigpt data fetch {target.entry.name}")
    dataset: Dataset = built(target, params)
    return dataset


def _loaded(dataset: Dataset) -> Splits:
    try:
        splits = dataset.load()
    except DataError as missing:
        raise Unsuitable(str(missing)) from missing
    if not isinstance(splits, Splits):
        raise Violation(f"load gives a {type(splits).__name__}", cause="Splits(train, val) is wanted")
    return splits


_latest: dict[tuple[type, str], Splits] = {}


def _loaded_once(target: Target, params: Mapping[str, Any]) -> Splits:
    """For properties that ask what is in a dataset, not whether it is the same twice: the latest few are kept."""
    assert target.entry is not None
    key = (target.entry.cls, json.dumps(params, sort_keys=True))
    if key not in _latest:
        loaded = _loaded(_dataset(target, params))
        while len(_latest) > 2:
            del _latest[next(iter(_latest))]
        _latest[key] = loaded
    return _latest[key]


@property_of("dataset", cases=_cases, quick=2)
@random_states_kept()
def splits(target: Target, case: Case) -> None:
    """Both splits are there, well-formed and of one kind, and have nothing in common."""
    loaded = _loaded_once(target, case.params)
    train, val = loaded.train, loaded.val
    if isinstance(train, str) and isinstance(val, str):
        _check_texts(train, val)
    elif isinstance(train, Sequences) and isinstance(val, Sequences):
        for rows, name in ((train, "training"), (val, "validation")):
            _check_rows(rows, name, loaded.vocab_size)
        if loaded.vocab_size is None:
            raise Violation(
                "vocab_size is None, and there is no tokenizer that could say it",
                cause="are ids that the rows happen not to have left out? Splits(train, val, vocab_size)",
            )
        _check_no_row_twice(train, val)
    else:
        raise Violation(
            f"training is a {type(train).__name__}, validation a {type(val).__name__}",
            cause="text for both or Sequences for both is wanted",
        )


def _check_texts(train: str, val: str) -> None:
    for text, name in ((train, "training"), (val, "validation")):
        if not text:
            raise Violation(f"the {name} text is empty", cause="is a share rounded to nothing?")
    overlap = text_overlap(train, val)
    if overlap.shared >= 0.5:
        raise Violation(
            f"{overlap.shared:.0%} of the validation text, in {overlap.pieces}, is training text too",
            cause="is validation cut out of what training keeps? Splits.of_text divides a text",
        )


def _check_rows(rows: Sequences, name: str, vocab_size: int | None) -> None:
    arrays = {"tokens": rows.tokens, "targets": rows.targets, "mask": rows.mask}
    for what, array in arrays.items():
        kinds = "b" if what == "mask" else "iu"
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in kinds:
            kind = f"{array.dtype} of {array.ndim} axes" if isinstance(array, np.ndarray) else type(array).__name__
            wanted = "truth values" if what == "mask" else "integers"
            raise Violation(f"{what} of the {name} rows are {kind}", cause=f"an array [rows, time] of {wanted} is wanted")
    shapes = {what: list(array.shape) for what, array in arrays.items()}
    if len(set(map(tuple, shapes.values()))) > 1:
        told = ", ".join(f"{what} {shape}" for what, shape in shapes.items())
        raise Violation(f"the {name} rows differ in shape: {told}", cause="is one of them a token shorter?")
    if not rows.mask.size:
        raise Violation(f"the {name} rows have the shape {shapes['mask']}", cause="is a share rounded to nothing?")
    if not rows.mask.any():
        raise Violation(f"of the {name} rows no target counts", cause="is the mask all false, or meant the other way round?")
    for what in ("tokens", "targets"):
        _check_ids(arrays[what], f"{what} of the {name} rows", vocab_size)


def _check_ids(array: Any, what: str, vocab_size: int | None) -> None:
    low, high = int(array.min()), int(array.max())
    if low < 0:
        raise Violation(f"{what} have {low}", cause="targets that do not count are left out by the mask, not by -100")
    if vocab_size is not None and high >= vocab_size:
        raise Violation(f"{what} have {high}, and vocab_size is {vocab_size}", cause="is it one too small?")


def _check_no_row_twice(train: Sequences, val: Sequences) -> None:
    common = rows_in_both((train.tokens, train.targets), (val.tokens, val.targets))
    if common:
        raise Violation(
            f"{len(common)} of {len(val.tokens)} validation rows are training rows too; the first is row {common[0]}",
            at=common[0],
            cause="are both drawn from the same rows? Draw all rows, leave out doubles, then divide",
        )


@property_of("dataset", cases=_defaults)
@random_states_kept()
def repeatable(target: Target, case: Case) -> None:
    """The splits are the same every time, and in every process."""
    start = time.perf_counter()
    dataset = _dataset(target, case.params)
    first = _loaded(dataset)
    with elsewhere():
        again = _loaded(_dataset(target, case.params))
    _check_same(first, again, "loaded by another instance", _UNSEEDED)
    _check_same(first, _loaded(dataset), "loaded once more", "does load change the dataset, as a generator that goes on?")
    for params in [other.params for other in _cases(target)[1:]]:
        if time.perf_counter() - start > _SECONDS:
            break
        try:
            first_with = _loaded(_dataset(target, params))
        except Unsuitable:
            continue
        with elsewhere():
            again = _loaded(_dataset(target, params))
        _check_same(first_with, again, f"with {_changes(params, case.params)} loaded by another instance", _UNSEEDED)
    there = outcome_in_another_process(target, case.params)  # None if the class cannot be had there
    if there is not None and there != _digest(first):
        raise Violation("in another process the splits are others", cause="the order of a set, or of a folder's files?")


_UNSEEDED = "random numbers without a seed of their own, or the time?"


def _changes(params: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in params.items() if name not in base or base[name] != value)


def _check_same(one: Splits, other: Splits, when: str, cause: str) -> None:
    for name in ("train", "val"):
        before, after = getattr(one, name), getattr(other, name)
        if _digest_of(before) == _digest_of(after):
            continue
        message = f"{when}, {name} is another"
        if isinstance(before, str) and isinstance(after, str):
            shorter = min(len(before), len(after))
            place = next((i for i in range(shorter) if before[i] != after[i]), shorter)
            message += f" from character {place} on: {before[place : place + 20]!r}, then {after[place : place + 20]!r}"
        raise Violation(message, cause=cause)
    if one.vocab_size != other.vocab_size:
        raise Violation(f"{when}, vocab_size is {other.vocab_size} and not {one.vocab_size}", cause=cause)


def _digest(splits: Splits) -> str:
    return json.dumps([_digest_of(splits.train), _digest_of(splits.val), splits.vocab_size])


def _digest_of(split: str | Sequences) -> str:
    if isinstance(split, str):
        return hashlib.sha256(split.encode("utf-8", "surrogatepass")).hexdigest()
    digest = hashlib.sha256()
    for array in (split.tokens, split.targets, split.mask):
        digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return digest.hexdigest()


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> str:
    """Digests of both splits, and the size of the vocabulary.

    Raises:
        Unsuitable: It refuses these parameters.
        NotTried: They have to be downloaded first.
    """
    _dataset(target, params)
    try:
        return _digest(_loaded_once(target, params))
    except Unsuitable as refusal:  # of the data, which a parameter may lift
        return f"refused: {refusal}"
