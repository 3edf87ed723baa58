"""The answers on docs/writing-a-plugin.md: each example is a plugin that keeps its contract."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from minigpt.check import check_component
from minigpt.check.targets import PARTS_OF_A_MODEL
from minigpt.registry import plugins
from tests.page import section, table

ANSWERS = {match[1]: block for block in section("Questions") if (match := re.match(r"# plugins/(\w+)\.py\n", block.text))}


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
def test_its_answers_keep_their_contracts(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.py"
    file.write_text(ANSWERS[name].text, "utf-8")
    plugins.load_file(file)
    (family,) = re.findall(rf'@register\("(\w+)", "{name}"\)', ANSWERS[name].text)
    report = check_component(family, name, quick=True)
    more = check_component(family, name, only=["knobs", *(["device", "states"] if family in PARTS_OF_A_MODEL else [])])
    for result in (*report.results, *more.results):
        assert result.verdict != "fail", (result.property, result.failure)


def test_its_helpers_exist_and_are_documented() -> None:
    for module, names in table("Questions"):
        imported = importlib.import_module(module.strip("`"))
        for name in re.findall(r"`(\w+)`", names):
            assert inspect.getdoc(getattr(imported, name)) or name.isupper(), (module, name)
