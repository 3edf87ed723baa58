"""Tests of a run's identity: every setting belongs to it, except those listed in LEFT_OUT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from minigpt.reading import load_experiment
from minigpt.run import Provenance
from minigpt.run.identity import LEFT_OUT, Identity, differing, settings_of
from tests.records import PROVENANCE, provenance_of

EXPERIMENT = {
    "name": "all",
    "data": {"name": "text", "paths": ["a.txt"], "val_path": "b.txt"},
    "tokenizer": {"name": "word"},
    "model": {
        "d_model": 16,
        "n_heads": 2,
        "n_layers": 2,
        "embedding": {"name": "table", "norm": "rmsnorm", "softcap": 20.0},
        "attention": {"name": "gqa", "window": 8, "qk_norm": "rmsnorm"},
        "layers": [{"attention": "gla"}, {"ffn": "moe", "norm": "rmsnorm"}],
    },
    "training": {"optimizer": "muon", "schedule": "wsd"},
}


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Each value of a document, with its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not isinstance(value, dict | list) or not value:
        yield path, value
    for key, item in items:
        yield from leaves(item, (*path, key))


def with_leaf(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    items = document.items() if isinstance(document, dict) else enumerate(document)
    changed = {key: with_leaf(item, path[1:], value) if key == path[0] else item for key, item in items}
    return changed if isinstance(document, dict) else list(changed.values())


def record(document: dict[str, Any], **changes: Any) -> Provenance:
    recorded: dict[str, Any] = {**PROVENANCE, "experiment": settings_of(document)}
    for path, value in changes.items():
        recorded = with_leaf(recorded, tuple(int(word) if word.isdigit() else word for word in path.split("__")), value)
    return provenance_of(recorded)


DOCUMENT = load_experiment(EXPERIMENT).to_json()
LEAVES = list(leaves(DOCUMENT))


def is_left_out(path: tuple[str | int, ...]) -> bool:
    return any(".".join(map(str, path[:length])) in LEFT_OUT for length in range(1, len(path) + 1))


@pytest.mark.parametrize(("path", "value"), LEAVES, ids=[".".join(map(str, path)) for path, _ in LEAVES])
def test_every_setting_changes_the_identity_unless_it_is_left_out(path: tuple[str | int, ...], value: Any) -> None:
    other = {"another": 1} if value != {"another": 1} else None
    for now in (other, None if value is not None else 0, [value]):
        changed = Identity.of(record(with_leaf(DOCUMENT, path, now)))
        same = changed.digest() == Identity.of(record(DOCUMENT)).digest()
        assert same == is_left_out(path)


def test_each_entry_that_is_left_out_is_a_setting_or_a_description() -> None:
    for name in LEFT_OUT:
        section: Any = DOCUMENT
        if " " not in name:
            for word in name.split("."):
                section = section[word]
    assert len(LEFT_OUT) == 11, "keep the list short: a new entry needs a convincing reason"


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"data__fingerprint": "x"}, True),
        ({"data__tokenizer": "x"}, True),
        ({"core": "x"}, True),
        ({"components__0__sha256": "x"}, True),
        ({"components__0__component": "norm/other"}, True),
        ({"versions__torch": "x"}, True),
        ({"versions__numpy": "x"}, True),
        ({"machine__device": "cuda"}, True),
        ({"components__0__file": "/moved/rmsnorm.py"}, False),
        ({"versions__python": "x"}, False),
        ({"machine__threads": 8}, False),
        ({"machine__processor": "x"}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_data_code_and_numerics_belong_to_the_identity_and_paths_do_not(change: dict[str, Any], counts: bool) -> None:
    assert (Identity.of(record(DOCUMENT, **change)).digest() != Identity.of(record(DOCUMENT)).digest()) == counts


def test_the_identity_is_the_same_after_reading_it_from_a_file() -> None:
    recorded = record(DOCUMENT)
    assert Identity.of(provenance_of(json.loads(recorded.content()))).digest() == Identity.of(recorded).digest()
    assert Identity.of(recorded).with_seed(7).settings["seed"] == 7


def test_differences_are_named_by_path_and_a_different_component_as_a_whole() -> None:
    other = with_leaf(DOCUMENT, ("training", "optimizer", "rest", "name"), "sgd")
    other = with_leaf(other, ("training", "grad_clip"), None)
    assert [path for path, *_ in differing(DOCUMENT, other)] == ["training.optimizer.rest", "training.grad_clip"]
