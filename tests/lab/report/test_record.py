"""Tests of a damaged or untrusted comparison.json: the result is the same page, or one line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigpt.errors import RunError
from minigpt.lab.compare.plan import Settings, make_plan
from minigpt.lab.compare.record import Comparison
from minigpt.lab.report.content import read_content
from minigpt.lab.report.page import write_report
from tests.conftest import Command
from tests.lab.compare.conftest import train_here, writer
from tests.lab.report.conftest import HOW, complete, mutated, paths, sealed_again


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants and two seeds; one variant diverges."""
    folder = tmp_path_factory.mktemp("recorded")
    write = writer(folder)
    diverging = {"training": {"optimizer": {"name": "sgd", "learning_rate": 1e30}, "grad_clip": None}}
    files = [write("base"), write("variant", model={"ffn": "glu"}), write("diverging", **diverging)]
    plan = make_plan(files, Settings(noise=False, seeds=2), out=folder / "comparisons", runs=[folder / "runs"])
    train_here(plan.grid)
    plan.write(plan.judge())
    complete(plan.folder / "comparison.json")
    shutil.copy2(plan.folder / "comparison.json", plan.folder / "kept.json")
    return plan.folder


_PAGES = settings.default.max_examples // 2  # because each page takes almost a second


def page(folder: Path, file: Path) -> str:
    write_report(read_content(folder), file)
    return file.read_text("utf-8")


def answer(folder: Path) -> str:
    """The page, or the one-line error; any other exception is a failure."""
    try:
        return page(folder, folder / "page.html")
    except RunError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert str(folder) in message, "it names the file"
        return "refused"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=_PAGES)
@given(data=st.data())
def test_any_content_gives_a_page_or_a_one_line_error(data: st.DataObject, comparison: Path) -> None:
    """With the right digest, so that only the types can refuse it."""
    document = json.loads((comparison / "kept.json").read_text())
    path = data.draw(st.sampled_from(list(paths(document))))
    how = data.draw(st.sampled_from(HOW))
    changed = mutated(document, path, how)
    changed = sealed_again(changed, Comparison, keep_format=path == ("format",))
    (comparison / "comparison.json").write_text(json.dumps(changed))
    answer(comparison)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_any_change_of_the_file_is_detected(data: st.DataObject, comparison: Path) -> None:
    document = json.loads((comparison / "kept.json").read_text())
    path = data.draw(st.sampled_from(list(paths(document))))
    changed = mutated(document, path, data.draw(st.sampled_from(HOW)))
    (comparison / "comparison.json").write_text(json.dumps(changed))
    if changed == document and json.dumps(changed) == json.dumps(document):
        assert Comparison.read(comparison / "comparison.json")
    else:
        assert answer(comparison) == "refused"


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [_cut, _flip, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"[]")], ids=range(4)
)
def test_damage_is_reported_by_the_command_in_one_line(
    damage: Callable[[Path], Any], comparison: Path, minigpt: Command
) -> None:
    file = comparison / "comparison.json"
    shutil.copy2(comparison / "kept.json", file)
    damage(file)
    code, _, err = minigpt("report", comparison)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert str(file) in err


def test_the_file_has_a_format_number_and_is_read_as_written(comparison: Path) -> None:
    shutil.copy2(comparison / "kept.json", comparison / "comparison.json")
    document = json.loads((comparison / "kept.json").read_text())
    assert document["format"] == 3
    assert Comparison.read(comparison / "comparison.json").document() == document
    (comparison / "comparison.json").write_text(json.dumps({**document, "format": 2}))
    with pytest.raises(RunError, match="has the format 2; this version reads 3. Call minigpt compare again"):
        Comparison.read(comparison / "comparison.json")


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt", "provenance.json"])
def test_damage_to_one_of_its_runs_is_reported_in_one_line_too(name: str, comparison: Path, minigpt: Command) -> None:
    shutil.copy2(comparison / "kept.json", comparison / "comparison.json")
    file = sorted(comparison.glob(f"runs/base/seed-*/{name}"))[0]  # whose text and origin are shown
    kept = file.read_bytes()
    _flip(file)
    code, _, err = minigpt("report", comparison)
    file.write_bytes(kept)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert name in err
