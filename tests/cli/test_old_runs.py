"""Runs that were recorded before keys moved open, generate and continue as before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.forging import forge


@pytest.fixture
def old(minigpt: Command, trained: Path) -> Path:
    """The run with its sampling keys in their old places, and another temperature than the default."""
    document = json.loads((trained / "experiment.json").read_text())
    sampler = document["sampling"].pop("sampler")
    del document["sampling"]["stop"], sampler["name"]
    document["sampling"] |= {**sampler, "temperature": 0.3, "top_k": 5}
    forge(trained / "experiment.json", document)
    return trained


def test_it_generates_with_its_own_settings(minigpt: Command, old: Path) -> None:
    same = ["generate", old, "ROMEO", "--seed", "3", "--max-new-tokens", "40"]
    code, text, err = minigpt(*same)
    assert (code, err) == (0, "")
    assert text == minigpt(*same, "--temperature", "0.3", "--top-k", "5")[1]
    assert text != minigpt(*same, "--temperature", "0.8", "--set", "sampling.sampler.top_k=null")[1]


def test_it_is_continued_and_then_recorded_in_the_present_form(minigpt: Command, old: Path) -> None:
    code, _, err = minigpt("resume", old, "--set", "training.max_iters=6")
    assert code == 0, err
    recorded = json.loads((old / "experiment.json").read_text())["sampling"]
    assert recorded["sampler"] == {"name": "filtered", "temperature": 0.3, "top_k": 5, "top_p": None, "min_p": None}
    assert "temperature" not in recorded


def test_every_command_that_reads_it_understands_it(minigpt: Command, old: Path) -> None:
    code, shown, err = minigpt("show", old, "--json")
    assert code == 0, err
    assert json.loads(shown)["sampling"]["sampler"]["top_k"] == 5
    for words in (
        ["runs"],
        ["diff", old, old],
        ["check", old, "--quick"],
        ["run", old / "experiment.json", "--name", "again"],
    ):
        code, _, err = minigpt(*words)
        assert code == 0, (words, err)
        assert "has moved" not in err
