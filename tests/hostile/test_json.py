"""JSON that is not an experiment is refused soon: deep, long, endless, or with unusable values."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.hostile.edits import DEEP, refused

JSON_BOMBS = {
    "deep arrays": DEEP,
    "deep objects": '{"a":' * 100_000,
    "deep and closed": DEEP + "]" * 100_000,
    "deep inside": '{"model": ' + "[" * 5000 + "]" * 5000 + "}",
    "nan": '{"training": {"grad_clip": NaN}}',
    "infinity": '{"training": {"grad_clip": Infinity}}',
    "an overflow": '{"training": {"grad_clip": 1e999}}',
    "a number of a million digits": '{"seed": ' + "9" * 1_000_000 + "}",
    "keys twice": '{"seed": 1, "seed": 2}',
    "no object": "[1, 2]",
    "binary": "\x00\x01\x02",
    "half a character": '{"description": "\\ud800"}',
    "a name that leads out": '{"name": "../../x"}',
    "a name that is a path": '{"name": "/tmp/x"}',
    "a name with an end of line": '{"name": "x\\n"}',
    "a name of the system": '{"name": "con"}',
    "another": '{"name": "LPT1.json"}',
    "a name with a dot at its end": '{"name": "x."}',
}


@pytest.mark.parametrize("bomb", JSON_BOMBS)
def test_json_that_is_not_an_experiment_is_refused_within_a_second(
    bomb: str, minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(JSON_BOMBS[bomb])
    began = time.monotonic()
    assert refused(minigpt, "show", "mine.json").startswith("error: mine.json: ")
    assert time.monotonic() - began < 5
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.json"]


def test_a_hundred_thousand_keys_take_no_time(minigpt: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({f"k{number}": 1 for number in range(60_000)}))
    began = time.monotonic()
    refused(minigpt, "show", file)
    assert time.monotonic() - began < 20


def test_a_hundred_megabytes_a_pipe_and_a_device_are_not_read(minigpt: Command, tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(100 * 2**20)
    assert "not an experiment" in refused(minigpt, "show", large)
    os.mkfifo(tmp_path / "pipe.json")
    for place in (tmp_path / "pipe.json", Path("/dev/zero")):
        assert "not a regular file" in refused(minigpt, "show", place)
        child = tmp_path / "child.json"
        child.write_text(json.dumps({"extends": str(place)}))
        assert "not a regular file" in refused(minigpt, "show", child)


def test_a_chain_of_extends_has_a_limit(minigpt: Command, tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.json").write_text(json.dumps({"extends": f"{number + 1}.json"}))
    (tmp_path / "100.json").write_text("{}")
    assert "a chain of more than 50 files" in refused(minigpt, "show", tmp_path / "0.json")
