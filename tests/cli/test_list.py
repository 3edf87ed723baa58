"""`minigpt list`, `schema` and `data`: components, their JSON Schema, and corpora."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from minigpt.registry import REGISTRY
from tests.cli.small import ROOT
from tests.conftest import Command

pytestmark = pytest.mark.usefixtures("own_folder")


def test_list_names_every_component_with_its_parameters(minigpt: Command) -> None:
    code, out, _ = minigpt("list")
    assert code == 0
    for family in REGISTRY.families():
        for entry in REGISTRY.entries(family.name):
            assert re.search(rf"^  {re.escape(entry.name)} ", out, re.MULTILINE)
    code, out, _ = minigpt("list", "attention", "--plugin", ROOT / "plugins/talking_heads.py")
    flat = " ".join(out.split())
    assert "n_kv_heads = 2 Key/value heads; must divide n_heads." in flat
    assert "talking_heads" in out
    assert "talking_heads.py:" in "".join(out.split())
    rows = json.loads(minigpt("list", "norm", "--json")[1])
    assert [row["name"] for row in rows] == [entry.name for entry in REGISTRY.entries("norm")]
    code, _, err = minigpt("list", "atention")
    assert code == 2
    assert 'unknown family "atention"; known: attention, batching, block' in err


def test_schema_is_printed_or_written_with_plugins(minigpt: Command) -> None:
    code, out, _ = minigpt("schema")
    assert code == 0
    assert "attention.mha" in json.loads(out)["$defs"]
    assert minigpt("schema", "--out", "s.json", "--plugin", ROOT / "plugins/talking_heads.py")[0] == 0
    assert "attention.talking_heads" in json.loads(Path("s.json").read_text())["$defs"]


def test_data_lists_adds_and_refuses(minigpt: Command, tmp_path: Path) -> None:
    code, out, _ = minigpt("data", "list")
    assert code == 0
    assert re.search(r"tinyshakespeare +not downloaded; use: minigpt data fetch tinyshakespeare", out)
    assert re.search(r"python-docs +no download needed", out)
    (tmp_path / "x.txt").write_text("not it")
    code, _, err = minigpt("data", "add", "tinyshakespeare", "x.txt")
    assert code == 2
    assert "x.txt is not tinyshakespeare.txt: 6 bytes, expected 1,115,394; nothing was added" in err
    assert minigpt("data", "fetch", "tinyshakespeare")[0] == 2
    code, _, err = minigpt("data", "add", "tinyshakespear", "x.txt")
    assert 'did you mean "tinyshakespeare"?' in err
    code, _, err = minigpt("data", "fetch", "python-docs")
    assert '"python-docs" needs no download' in err
