"""Tests that the fingerprint of a class without a file depends on what it computes, in every process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from minigpt.run.typed_in import typed_fingerprint

SESSION = """
FACTOR = 2.0
def scaled(x):
    return x * FACTOR
class Below:
    exponent = 1
class Mine(Below):
    '''Some words.'''
    shared = [1, 2]
    def __init__(self, dim, eps=1e-5, *, kind="a"):
        self.dim = dim
    @property
    def width(self):
        return 3
    @staticmethod
    def inner(x):
        return [each for each in (lambda y: [y, y in {"a", "b"}])(x)]
    def forward(self, x):
        return scaled(x) ** self.exponent
def another():
    return 1
"""

CHANGES = {
    "a constant": ("FACTOR = 2.0", "FACTOR = 2.5"),
    "a function that it calls": ("x * FACTOR", "x + FACTOR"),
    "a base class": ("exponent = 1", "exponent = 2"),
    "a list": ("[1, 2]", "[1, 3]"),
    "a default": ("1e-5", "1e-6"),
    "a default by name": ('kind="a"', 'kind="b"'),
    "a property": ("return 3", "return 4"),
    "a function within a function": ("[y, y in", "[y, y not in"),
    "a set of constants": ('{"a", "b"}', '{"a", "c"}'),
    "its method": ("** self", "* self"),
    "another name": ("self.exponent", "self.dim"),
}


def fingerprint(text: str) -> str:
    session = {"__name__": "__main__"}
    exec(text, session)
    return typed_fingerprint(session["Mine"])  # type: ignore[arg-type]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_computation_changes_the_fingerprint(change: tuple[str, str]) -> None:
    assert change[0] in SESSION
    assert fingerprint(SESSION.replace(*change)) != fingerprint(SESSION)


def test_docstrings_and_unused_code_do_not_change_the_fingerprint() -> None:
    same = SESSION.replace("Some words", "Others").replace("return 1\n", "return 2\n").replace("    shared", "\n    shared")
    assert same != SESSION
    assert fingerprint(same) == fingerprint(SESSION)


@pytest.mark.slow
def test_another_process_computes_the_same_fingerprint() -> None:
    program = "from tests.run.test_typed_in import SESSION, fingerprint\nprint(fingerprint(SESSION))"
    prints = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert prints == {fingerprint(SESSION)}
