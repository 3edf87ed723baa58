"""Tests that the records of a run are read back as written, or are refused in one line."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.errors import RunError
from minigpt.run import Ending, MetricsRow, ModelCheck, Provenance, recorded
from minigpt.run.provenance import Change
from minigpt.run.recorded import CheckedProperty, JsonObject, read_record
from minigpt.run.segments import continued
from minigpt.run.sources import PACKAGE
from minigpt.run.status import Status
from tests.records import PROVENANCE, provenance_of, row

FILE = Path("provenance.json")


def test_a_provenance_and_its_history_are_read_back_as_they_were_written() -> None:
    first = provenance_of(PROVENANCE)
    second = continued(first, first, [Change("seed", 1, 2)], from_update=7)
    third = continued(second, first, [], from_update=9)
    for written in (first, second, third):
        assert read_record(Provenance, written.content(), FILE) == written
    assert [segment.provenance for segment in third.segments] == [first.origin(), second.origin(), None]
    assert third.later_segments() == ["from update 7 on: seed (1 then, 2 now)", "from update 9 on: continued after a change"]
    assert json.loads(first.content()) == PROVENANCE, "no key is added"


def test_an_ending_is_read_back_as_it_was_written() -> None:
    for status in (Status.DIVERGED, Status.CRASHED):
        written = Ending(status=status, message="because\n of \x1b[31m this")
        assert read_record(Ending, written.content(), Path("ending.json")) == written


def test_the_check_of_a_model_is_read_back_as_it_was_written_and_has_its_first_failure_in_words() -> None:
    held = CheckedProperty(property="grouping", verdict="pass")
    broken = CheckedProperty(property="targets", verdict="fail", message="the loss\u001b changes")
    for properties, words in (((held,), "holds"), ((held, broken, broken), f"violated: targets: {broken.message}")):
        written = ModelCheck(minigpt="1", update=7, properties=properties)
        assert read_record(ModelCheck, written.content(), Path("check.json")) == written
        assert written.words == words


@given(
    step=st.integers(1, 2**40),
    losses=st.dictionaries(
        st.sampled_from(["train_loss", "val_loss", "auxiliary_loss", "grad_norm", "other_cpu", "val_perplexity"]),
        st.floats(-1e100, 1e100),
    ),
)
def test_a_row_is_read_back_bit_for_bit_and_has_no_keys_without_values(step: int, losses: dict[str, float]) -> None:
    written = row(step, **losses)
    line = json.dumps(written.to_json(), allow_nan=False)
    assert MetricsRow.model_validate_json(line) == written
    assert set(written.to_json()) == {"step", "tokens", "seconds", "wall", "lr", "tokens_per_second", *losses}


@pytest.mark.parametrize("number", [0, 2, 99, "1", True, None, 1.5, [1]])
def test_another_format_is_reported_with_the_version_that_wrote_it(number: object) -> None:
    content = json.dumps({**PROVENANCE, "format": number, "experiment": "of another form"}).encode()
    with pytest.raises(RunError, match="open the run with the version that wrote it: minigpt 1$") as caught:
        read_record(Provenance, content, FILE)
    assert len(str(caught.value).splitlines()) == 1


def test_a_record_of_an_older_format_is_migrated_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(document: JsonObject) -> JsonObject:
        return {**document, "format": 0, "core": f"{document['core']}, 1"}

    def second(document: JsonObject) -> JsonObject:
        return {**document, "format": 1, "core": f"{document['core']}, 2"}

    monkeypatch.setattr(recorded, "MIGRATIONS", {-1: first, 0: second})
    for number, core in ((-1, "c, 1, 2"), (0, "c, 2"), (1, "c")):
        content = json.dumps({**PROVENANCE, "format": number}).encode()
        assert read_record(Provenance, content, FILE).core == core


def test_no_file_in_minigpt_run_uses_the_type_any() -> None:
    for file in sorted((PACKAGE / "run").glob("*.py")):
        names = {node.id for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Name)}
        assert "Any" not in names, file
