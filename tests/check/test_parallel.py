"""Targets that are checked in several processes: what fails there is one line here."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from minigpt.errors import ExperimentError, Problem
from tests.conftest import Command

EXITS = '''
import os
from minigpt import register
from minigpt.contracts import Norm

@register("norm", "exits")
class Exits(Norm):
    """Ends the process.

    Args:
        eps: Nothing.
    """
    def __init__(self, width: int, *, eps: float = 1e-5):
        super().__init__()
    def forward(self, x):
        os._exit(5)
'''


def test_a_component_that_ends_its_process_is_one_line(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("exits.py").write_text(EXITS)
    words = ["norm/exits", "norm/none", "--plugin", "exits.py", "--quick", "--jobs", "2"]
    code, _, err = minigpt("check", *words)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: a component ended the process that checked it (a crash, or os._exit)")


def test_an_error_comes_whole_from_another_process() -> None:
    error = ExperimentError([Problem(("model", "d_model"), "found 3"), Problem((), "and more")], "x.json")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problems, again.source) == (str(error), error.problems, error.source)
