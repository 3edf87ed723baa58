"""The list of mechanisms, the page that is made of it, and the command."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from minigpt.registry import REGISTRY
from tests.benchmarks.conftest import ROOT


@pytest.fixture
def reach(scripts: None) -> Any:
    import reach

    return reach


def test_the_list_has_the_25_and_names_each_file_once(reach: Any) -> None:
    import mechanisms

    names = [part.name for _, part in mechanisms.parts()]
    assert len(mechanisms.MECHANISMS) == 25
    assert len(set(names)) == len(names)
    assert all(mechanism.parts for mechanism in mechanisms.MECHANISMS)
    files = {file.stem for file in (ROOT / "benchmarks" / "reach").glob("*.py")}
    assert files <= set(names), "every file of benchmarks/reach is on the list"


def test_every_file_exists_and_a_plugin_has_fewer_than_100_lines(reach: Any) -> None:
    import mechanisms

    for _, part in mechanisms.parts():
        assert part.file.is_file(), part.name
        if not part.shipped:
            assert len(part.file.read_text("utf-8").splitlines()) <= reach.MOST_LINES, part.name


def test_every_part_is_chosen_by_its_settings(reach: Any) -> None:
    """The component that a plugin registers, or the shipped one's name, is in the settings of its run."""
    import mechanisms

    for _, part in mechanisms.parts():
        if part.shipped:
            family, name = part.name.split("/")
            REGISTRY.entry(family, name)
            registered = [] if name == "next_token" else [name]  # a default, of which a parameter is set
        else:
            registered = re.findall(r'@register\("\w+", "(\w+)"\)', part.file.read_text("utf-8"))
            assert registered, part.name
        for name in registered:
            assert any(re.search(rf"\b{name}\b", setting) for setting in part.settings), (part.name, name)


def test_the_page_has_a_line_for_every_part_that_passes_trains_and_decodes(reach: Any) -> None:
    import mechanisms

    lines = reach.lines_on(reach.PAGE)
    assert reach.PAGE.read_text("utf-8") == reach.page_of(lines), "made by the command"
    listed = dict.fromkeys(part.name for _, part in mechanisms.parts())
    assert list(lines) == list(listed)
    for mechanism, part in mechanisms.parts():
        name, _, _, count, check, loss, generates, needs = (
            cell.strip() for cell in lines[part.name].strip("|").split(" | ")
        )
        assert (name, needs) == (mechanism.name, part.needs)
        if not part.shipped:
            assert int(count) == len(part.file.read_text("utf-8").splitlines())
        assert check.startswith("pass"), part.name
        first, last = map(float, loss.split(" → "))
        assert last < first - 0.5, part.name
        assert generates == "yes"


def test_a_line_is_read_back_and_others_are_kept(reach: Any, tmp_path: Path) -> None:
    import mechanisms

    (focal,) = ((each, part) for each, part in mechanisms.parts() if part.name == "focal")
    written = reach.line_of(*focal, reach.Outcome("pass", 3.4, (5.0, 2.5), "yes"))
    assert " | 45 | pass, 3 s | 5.00 → 2.50 | yes | " in written
    page = tmp_path / "reach.md"
    page.write_text(
        reach.page_of({"focal": written, "looped": "| x | y | [looped](../../plugins/looped.py) | 1 |"}), "utf-8"
    )
    lines = reach.lines_on(page)
    assert list(lines) == ["looped", "focal"], "in the order of the list"
    assert lines["focal"] == written


def test_an_unknown_name_is_refused(reach: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["reach.py", "--only", "fokal", "focal"])
    with pytest.raises(SystemExit):
        reach.main()
    assert "there is no fokal; known: " in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_checks_trains_and_decodes(
    reach: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reach.py", "--only", "prefix_rows"])
    before = reach.PAGE.read_bytes()
    reach.main()
    (line,) = capsys.readouterr().out.splitlines()
    assert re.search(r" \| pass, \d+ s \| 5\.\d\d → 2\.\d\d \| yes \| ", line)
    assert reach.PAGE.read_bytes() == before
