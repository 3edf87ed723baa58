"""Records of a run or a comparison with other content are refused by every command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigpt.lab.compare.record import Comparison
from minigpt.lab.sealed import seal
from tests.conftest import Command
from tests.hostile.edits import DEEP, refused, unfinished


@pytest.mark.parametrize("words", [["show"], ["show", "--json"], ["report"], ["generate"], ["resume"]])
def test_half_a_character_in_a_record_is_refused_in_one_line(words: list[str], minigpt: Command, run: Path) -> None:
    document = json.loads((run / "experiment.json").read_text())
    document["model"]["attention"]["dropout"] = "\ud800"
    (run / "experiment.json").write_text(json.dumps(document))
    assert "half a character" in refused(minigpt, words[0], run, *words[1:])


@pytest.mark.parametrize("name", ["experiment.json", "tokenizer.json", "provenance.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [DEEP, "{}", "[]", "null", '{"step": "x"}', "\x00", ""])
def test_files_of_a_run_with_other_content_are_refused(name: str, content: str, minigpt: Command, run: Path) -> None:
    (run / name).write_text(content + "\n")
    if name == "metrics.jsonl":
        refused(minigpt, "report", run)
    else:
        refused(minigpt, "generate", run)
    code, out, _ = minigpt("runs")
    assert code == 0
    assert "small/seed-1337" in out, "the list still shows it"


RECORDED: list[tuple[str, Any]] = [
    *(("machine", value) for value in (None, {}, {"device": "cpu", "threads": "x"}, {"device": "cpu", "threads": -1})),
    *(("machine", value) for value in ({"device": "cpu", "threads": 2**40}, {"device": "tpu", "threads": 1})),
    *(("components", value) for value in (None, [1], [{}], {"component": "x"})),
    *(("versions", value) for value in ([], {"torch": 1}, None)),
    *(("data", value) for value in (None, {}, [], {"fingerprint": 1, "vocab_size": 3})),
    *(("precision", value) for value in ("fp99", None)),
    *(("experiment", value) for value in (3, [], json.loads('{"a":' * 400 + "1" + "}" * 400))),
    *(("segments", value) for value in (3, [1], [{"from_update": -1, "started": "", "changes": []}], [{"changes": "x"}])),
    ("folder", 3),
    ("machine", {"device": "cpu", "threads": 1 << 16}),
]


@pytest.mark.parametrize(("key", "value"), RECORDED, ids=lambda value: str(value)[:60])
def test_provenance_of_another_form_is_refused_by_every_command(key: str, value: Any, minigpt: Command, run: Path) -> None:
    unfinished(run)
    file = run / "provenance.json"
    recorded = json.loads(file.read_text())
    beside = recorded[key] if isinstance(value, dict) and value and key in ("machine", "data", "versions") else {}
    file.write_text(json.dumps({**recorded, key: {**beside, **value} if beside else value}))
    for command in (["resume", run, "--accept-changes"], ["report", run], ["generate", run]):
        assert "provenance.json is damaged" in refused(minigpt, *command)
    assert minigpt("runs")[0] == 0
    Path("other.json").write_text(json.dumps({"extends": "small.json", "name": "other", "model": {"ffn": "glu"}}))
    code, _, err = minigpt("compare", "small.json", "other.json", "--seeds", "1", "--plan")
    assert code == 0, err


def _with_state(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change state.json in every checkpoint, and its digest in the manifest."""
    for folder in run.glob("checkpoints/step-*"):
        document = json.loads((folder / "state.json").read_text())
        change(document)
        content = json.dumps(document).encode()
        (folder / "state.json").write_bytes(content)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))


def _entries(document: dict[str, Any], key: str) -> dict[str, Any]:
    """The packed value under a key of the optimizer's state_dict."""
    return next(value for packed, value in document["optimizer"]["dict"] if packed == {"value": key})


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an index too far": lambda d: _entries(d, "state")["dict"].append([{"value": 999}, {"dict": []}]),
    "a list for a state": lambda d: d["optimizer"]["dict"].__setitem__(0, [{"value": "state"}, {"list": []}]),
    "no groups": lambda d: d["optimizer"]["dict"].__setitem__(1, [{"value": "param_groups"}, {"value": 3}]),
    "too few groups": lambda d: _entries(d, "param_groups")["list"].pop(),
    "a text for a number": lambda d: _entries(d, "param_groups")["list"][0]["dict"].__setitem__(
        0, [{"value": "lr"}, {"value": "x"}]
    ),
    "nothing": lambda d: d.__setitem__("optimizer", {"dict": []}),
    "half a state": lambda d: _entries(d, "state")["dict"][0][1]["dict"].pop(),
    "an empty record": lambda d: d["progress"].__setitem__("pending", {}),
    "a record of texts": lambda d: d["progress"].__setitem__("pending", {"step": "x"}),
    "a record without numbers": lambda d: d["progress"].__setitem__("pending", {"step": 4, "train_loss": float("nan")}),
}


@pytest.mark.parametrize("state", STATES)
def test_a_training_state_of_another_form_is_refused(state: str, minigpt: Command, run: Path) -> None:
    unfinished(run)
    _with_state(run, STATES[state])
    refused(minigpt, "resume", run, "--accept-changes")


def test_a_comparison_of_another_form_is_refused(minigpt: Command, run: Path) -> None:
    file = Path("comparisons/x/comparison.json")
    file.parent.mkdir(parents=True)
    for document in ({}, {"settings": {"unit": "nats"}, "variants": [{}]}, {"settings": 3, "variants": 4}):
        file.write_text(json.dumps(seal(document, Comparison.format_number)))
        refused(minigpt, "report", file.parent)
