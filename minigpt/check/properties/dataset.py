"""The properties of datasets."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.check.parameters import is_temporary, parameter_sets
from minigpt.check.passages import common_passage, joining_passage
from minigpt.check.properties.surroundings import (
    built,
    other_seeds_and_clock,
    outcome_in_another_process,
    random_states_kept,
)
from minigpt.check.property import NotTried, Unsuitable, Violation, property_of, trying
from minigpt.check.targets import Target
from minigpt.components.dataset.overlap import text_overlap
from minigpt.components.dataset.rows import joined_by, rows_in_both, shifted_share
from minigpt.contracts import Dataset, Sequences, Splits
from minigpt.errors import DataError
from minigpt.system.download import RemoteFile, cached

_SECONDS = 3.0
"""Time limit for `repeatable`, after which it loads no more parameter sets, because a large corpus is slow."""


@dataclass(frozen=True)
class Case:
    """One test case for a dataset.

    Attributes:
        params: Parameters that differ from the defaults.
    """

    params: Mapping[str, Any] = field(default_factory=dict)


def _cases(target: Target) -> list[Case]:
    return [Case(_files_apart(target, params)) for params in parameter_sets(target)]


def _defaults(target: Target) -> list[Case]:
    return _cases(target)[:1]


def _files_apart(target: Target, params: dict[str, Any]) -> dict[str, Any]:
    """Give each path parameter a different file: equal files for both splits would be the user's mistake.

    The author's examples stay as they are.
    """
    assert target.entry is not None
    paths = [name for name in params if name in target.entry.path_params and is_temporary(params[name])]
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
        raise NotTried(f"{remote.name} is not downloaded: minigpt data fetch {target.entry.name}")
    dataset: Dataset = built(target, params)
    return dataset


def _loaded(dataset: Dataset) -> Splits:
    try:
        splits = dataset.load()
    except DataError as missing:
        raise Unsuitable(str(missing)) from missing
    if not isinstance(splits, Splits):
        raise Violation(f"load returns a {type(splits).__name__}", cause="it must return Splits(train, val)")
    return splits


_recently_loaded: dict[tuple[type, str], Splits] = {}


def _loaded_once(target: Target, params: Mapping[str, Any]) -> Splits:
    """Load a dataset, or return it from a cache of recent ones; for properties other than `repeatable`."""
    assert target.entry is not None
    key = (target.entry.cls, json.dumps(params, sort_keys=True))
    if key not in _recently_loaded:
        loaded = _loaded(_dataset(target, params))
        while len(_recently_loaded) > 2:
            del _recently_loaded[next(iter(_recently_loaded))]
        _recently_loaded[key] = loaded
    return _recently_loaded[key]


@property_of("dataset", cases=_cases, quick=2)
@random_states_kept()
def splits(target: Target, case: Case) -> None:
    """Both splits are well-formed, of one kind and without common parts; targets are not the inputs, nor two steps ahead."""
    loaded = _loaded_once(target, case.params)
    train, val = loaded.train, loaded.val
    if isinstance(train, str) and isinstance(val, str):
        _check_texts(train, val)
        _check_documents(train, loaded.documents, "training")
        _check_documents(val, loaded.val_documents, "validation")
    elif isinstance(train, Sequences) and isinstance(val, Sequences):
        for rows, name in ((train, "training"), (val, "validation")):
            _check_rows(rows, name, loaded.vocab_size)
            _check_targets(rows, name)
        if loaded.vocab_size is None:
            raise Violation(
                "vocab_size is None, and rows have no tokenizer that could define it",
                cause="pass it: Splits(train, val, vocab_size); the largest id in the rows may be smaller",
            )
        _check_no_row_twice(train, val)
    else:
        raise Violation(
            f"training is a {type(train).__name__}, validation is a {type(val).__name__}",
            cause="both must be text, or both Sequences",
        )


def _check_documents(text: str, documents: tuple[int, ...] | None, name: str) -> None:
    if documents is None:
        return
    for index, (start, end) in enumerate(pairwise((*documents, len(text)))):
        if not (start < end and (index or start == 0)):
            raise Violation(
                f"document {index} of the {name} text begins at character {start}, and the next one at {end}",
                at=index,
                cause=f"do they begin at 0, increase, and end with the {name} text? Splits.of_documents counts them",
            )
    if not documents:
        raise Violation(f"there are no documents of the {name} text", cause="None says that no documents are known")


def _check_texts(train: str, val: str) -> None:
    for text, name in ((train, "training"), (val, "validation")):
        if not text:
            raise Violation(f"the {name} text is empty", cause="is the size of a split rounded down to 0?")
    overlap = text_overlap(train, val)
    if overlap.shared >= _MOST_SHARED:
        raise Violation(
            f"{overlap.shared:.0%} of the validation text, in {overlap.pieces}, is also training text", cause=_CUT_FROM
        )
    for passage in (joining_passage(train, val), common_passage(train, val)):
        if passage:
            shown = passage if len(passage) <= 40 else f"{passage[:20]}…{passage[-20:]}"
            raise Violation(
                f"a passage of the validation text, of {len(passage)} characters, is also training text: {shown!r}",
                cause=_CUT_FROM,
            )


_CUT_FROM = "does training keep text that validation is cut from? Splits.of_text divides a text"
_MOST_SHARED = 0.2
"""A larger share of the validation text in training, beyond what training has twice, is no chance."""


def _check_rows(rows: Sequences, name: str, vocab_size: int | None) -> None:
    arrays = {"tokens": rows.tokens, "targets": rows.targets, "mask": rows.mask}
    for what, array in arrays.items():
        kinds = "b" if what == "mask" else "iu"
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in kinds:
            kind = f"{array.dtype} of {array.ndim} axes" if isinstance(array, np.ndarray) else type(array).__name__
            wanted = "truth values" if what == "mask" else "integers"
            raise Violation(f"{what} of the {name} rows are {kind}", cause=f"they must be an array [rows, time] of {wanted}")
    shapes = {what: list(array.shape) for what, array in arrays.items()}
    if len(set(map(tuple, shapes.values()))) > 1:
        shape_of_each = ", ".join(f"{what} {shape}" for what, shape in shapes.items())
        raise Violation(f"the {name} rows differ in shape: {shape_of_each}", cause="is one of them a token shorter?")
    if not rows.mask.size:
        raise Violation(
            f"the {name} rows have the shape {shapes['mask']}", cause="is the size of a split rounded down to 0?"
        )
    if not rows.mask.any():
        raise Violation(f"no target of the {name} rows counts", cause="is the mask all false, or inverted?")
    for what in ("tokens", "targets"):
        _check_ids(arrays[what], f"{what} of the {name} rows", vocab_size)


def _check_ids(array: Any, what: str, vocab_size: int | None) -> None:
    low, high = int(array.min()), int(array.max())
    if low < 0:
        raise Violation(f"{what} contain {low}", cause="the mask, not -100, excludes targets that do not count")
    if vocab_size is not None and high >= vocab_size:
        raise Violation(f"{what} contain {high}, but vocab_size is {vocab_size}", cause="is vocab_size one too small?")


def _check_no_row_twice(train: Sequences, val: Sequences) -> None:
    common = rows_in_both(train, val)
    if common:
        raise Violation(
            f"{len(common)} of {len(val.tokens)} validation rows are also training rows; the first is row {common[0]}",
            at=common[0],
            cause="are both drawn from the same rows? Draw all rows, remove duplicates, then divide",
        )
    shifted, joined = shifted_share(train, val), joined_by(train, val) or joined_by(val, train)
    if joined or shifted >= 0.5 or _exceeds_chance(shifted, train, val):
        what = (
            f"{joined} tokens of a validation row continue"
            if joined
            else f"{shifted:.1%} of the validation rows' inputs are in"
        )
        raise Violation(
            f"{what} training rows, at other places of the rows",
            cause="are the rows overlapping windows of one series? Divide the series, then cut each part into rows",
        )


def _exceeds_chance(shifted: float, train: Sequences, val: Sequences) -> bool:
    """Whether the share of rows that are surely shifted differs from that of some training rows among the others."""
    if shifted < _FEW or (sure := shifted_share(train, val, certainty=2.0)) < _FEW:
        return False
    chosen = np.zeros(len(train.tokens), dtype=bool)
    chosen[np.random.default_rng(0).permutation(len(chosen))[: min(len(val.tokens), len(chosen) // 2)]] = True
    others, some = (Sequences(train.tokens[part], train.targets[part], train.mask[part]) for part in (~chosen, chosen))
    usual = shifted_share(others, some, certainty=2.0) if chosen.any() else 0.0
    return sure > 4 * usual or usual > 0.9


_FEW = 0.005


def _check_targets(rows: Sequences, name: str) -> None:
    """Refuse targets that are their own inputs, or inputs further ahead than the next one."""
    time = rows.tokens.shape[1]

    def share(ahead: int) -> float:
        """The share of the counted targets that are the input so many places ahead."""
        counted = rows.mask[:, : time - ahead]
        same = (rows.targets[:, : time - ahead] == rows.tokens[:, ahead:]) & counted
        return float(same.sum() / counted.sum()) if counted.sum() > 0.5 * rows.mask.sum() else 0.0

    for ahead, what in ((0, "their own inputs"), (2, "the inputs two places ahead"), (3, "the inputs three places ahead")):
        if share(ahead) >= _NEARLY_ALL and share(1) < _NEARLY_ALL:
            raise Violation(
                f"targets of the {name} rows are {what}",
                cause="are inputs and targets shifted by one token, once? a target is what follows its input",
            )


_NEARLY_ALL = 0.99


@property_of("dataset", cases=_defaults)
@random_states_kept()
def repeatable(target: Target, case: Case) -> None:
    """Every load gives the same splits, in every process."""
    start = time.perf_counter()
    dataset = _dataset(target, case.params)
    first = _loaded(dataset)
    with other_seeds_and_clock():
        again = _loaded(_dataset(target, case.params))
    _check_same(first, again, "when another instance loads it", _UNSEEDED)
    _check_same(
        first, _loaded(dataset), "when it is loaded again", "does load change the dataset, for example its random generator?"
    )
    for params in [other.params for other in _cases(target)[1:]]:
        if time.perf_counter() - start > _SECONDS:
            break
        with trying(Case(params)), contextlib.suppress(Unsuitable):
            first_with = _loaded(_dataset(target, params))
            with other_seeds_and_clock():
                again = _loaded(_dataset(target, params))
            _check_same(first_with, again, "when another instance loads it", _UNSEEDED)
    in_other_process = outcome_in_another_process(target, case.params)  # None if it cannot import the class
    if in_other_process is not None and in_other_process != _digest(first):
        raise Violation(
            "in another process the splits differ",
            cause="does the result depend on the order of a set or of a folder's files?",
        )


_UNSEEDED = "an unseeded random generator, or the time?"


def _check_same(one: Splits, other: Splits, when: str, cause: str) -> None:
    for name in ("train", "val"):
        before, after = getattr(one, name), getattr(other, name)
        if _digest_of(before) == _digest_of(after):
            continue
        message = f"{when}, {name} differs"
        if isinstance(before, str) and isinstance(after, str):
            shorter = min(len(before), len(after))
            place = next((i for i in range(shorter) if before[i] != after[i]), shorter)
            message += f" from character {place}: {before[place : place + 20]!r}, then {after[place : place + 20]!r}"
        raise Violation(message, cause=cause)
    if one.vocab_size != other.vocab_size:
        raise Violation(f"{when}, vocab_size is {other.vocab_size} instead of {one.vocab_size}", cause=cause)
    if (one.documents, one.val_documents) != (other.documents, other.val_documents):
        raise Violation(f"{when}, documents differ", cause=cause)


def _digest(splits: Splits) -> str:
    rest = [splits.vocab_size, splits.documents, splits.val_documents, splits.alphabet]
    return json.dumps([_digest_of(splits.train), _digest_of(splits.val), *rest])


def _digest_of(split: str | Sequences) -> str:
    if isinstance(split, str):
        return hashlib.sha256(split.encode("utf-8", "surrogatepass")).hexdigest()
    digest = hashlib.sha256()
    for array in (split.tokens, split.targets, split.mask):
        digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return digest.hexdigest()


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> str:
    """Return digests of both splits, and the size of the vocabulary.

    Raises:
        Unsuitable: The dataset refuses these parameters.
        NotTried: The data must be downloaded first.
    """
    _dataset(target, params)
    try:
        return _digest(_loaded_once(target, params))
    except Unsuitable as refusal:  # unusable data are an outcome too: another parameter value may avoid them
        return f"refused: {refusal}"
