"""The ledger of all verdicts: what counts as a question, and that nothing is removed unnoticed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.errors import RunError
from minigpt.lab.ledger import Ledger, Question, ask, shown
from minigpt.lab.statistics import discoveries
from tests.conftest import Command


def question(key: str, p: float = 0.5, **others: Any) -> Question:
    kind = "better" if p < 0.05 else "cannot tell"
    given = {"comparison": "one", "base": "base", "variant": key, "seeds": 5, "mean": -0.01, "kind": kind, "family": 1}
    return Question(**{**given, "key": key, "p": p, **others})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "comparisons" / "ledger.jsonl"


def test_the_same_runs_are_one_question_and_each_new_question_has_the_next_level(file: Path) -> None:
    for key, p in (("a", 0.5), ("b", 0.5), ("a", 0.001), ("c", 0.001), ("d", 0.5)):
        ask(file, [question(key, p)])
    entries = Ledger.read(file).entries
    assert [(entry.key, entry.p, entry.survives) for entry in entries] == [
        ("a", 0.5, False),
        ("b", 0.5, False),
        ("c", 0.001, True),
        ("d", 0.5, False),
    ]
    assert [entry.level for entry in entries] == [discoveries.level(n, [3] if n > 3 else []) for n in range(1, 5)]
    assert Ledger.read(file).next_level() == discoveries.level(5, [3])


def test_the_command_lists_the_questions(file: Path, minigpt: Command) -> None:
    ask(file, [question("a", 0.001), question("b", 0.5)])
    code, out, _ = minigpt("ledger", file.parent)
    assert code == 0
    assert "2 questions, 1 survives; the next one needs p ≤" in out


def test_levels_within_one_comparison_do_not_depend_on_each_other(file: Path) -> None:
    questions = [question("a", 1e-6), question("b", 0.5), question("a", 1e-6)]
    entries = ask(file, questions).entries
    assert [entry.level for entry in entries] == [discoveries.level(1, []), discoveries.level(2, [])]
    assert ask(file, [question("c")]).entries[-1].level == discoveries.level(3, [2]), "as if found at the end of the call"


def test_only_a_verdict_of_a_difference_survives(file: Path) -> None:
    """The correction for many variants may refuse a p-value that is small enough for the ledger."""
    ask(file, [question("a", 0.01, kind="cannot tell", family=20)])
    assert [entry.survives for entry in Ledger.read(file).entries] == [False]


def edited(line: str) -> str:
    return json.dumps({**json.loads(line), "p": 0.6})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(lambda lines: [edited(lines[0]), *lines[1:]], "line 1: this line was edited", id="edited"),
        pytest.param(lambda lines: [*lines[:2], edited(lines[2])], "line 3: this line was edited", id="the-last-edited"),
        pytest.param(lambda lines: lines[1:], "line 1: this line was edited, or one before it was removed", id="removed"),
        pytest.param(lambda lines: [lines[0], lines[2]], "line 2: this line was edited, or one before it", id="in-between"),
        pytest.param(lambda lines: [lines[1], lines[0], lines[2]], "line 1: ", id="exchanged"),
        pytest.param(lambda lines: [*lines[:2], lines[2][:50]], "line 3 is damaged: ", id="cut"),
        pytest.param(lambda lines: [lines[0], "", *lines[1:]], "line 2 is damaged: ", id="an-empty-line"),
        pytest.param(lambda lines: [*lines, "ä"], "cannot be read as a ledger: ", id="not-ascii"),
    ],
)
def test_damage_is_reported_in_one_line_with_its_place(file: Path, change: Any, named: str) -> None:
    for key in "abc":
        ask(file, [question(key)])
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())), "utf-8")
    before = file.read_bytes()
    for use in (lambda: Ledger.read(file), lambda: ask(file, [question("d")])):
        with pytest.raises(RunError) as caught:
            use()
        assert named in str(caught.value)
        assert str(caught.value).endswith("or move it away, which forgets what was asked")
        assert len(str(caught.value).splitlines()) == 1
    assert file.read_bytes() == before


def test_several_processes_can_ask_at_once(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: ask(file, [question(key)]), map(str, range(24))))
    assert {entry.key for entry in Ledger.read(file).entries} == set(map(str, range(24)))
    assert [path.name for path in file.parent.iterdir() if path.suffix == ".new"] == []


@given(st.floats(0, 1), st.floats(1e-9, 1))
def test_shown_digits_say_which_is_larger(p: float, level: float) -> None:
    for one in (p, level, level * (1 + 1e-12)):
        left, right = map(float, shown(one, level))
        assert (left <= right) == (one <= level)
