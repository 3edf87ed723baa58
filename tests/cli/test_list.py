"""`minigpt list`, `schema` and `data`: components, their JSON Schema, and corpora."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from minigpt.cli import drawing
from minigpt.registry import REGISTRY
from minigpt.system import files
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


def test_an_output_file_that_a_person_names_keeps_links_pipes_and_folders(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("target.json").write_text("old")
    Path("link.json").symlink_to("target.json")
    assert minigpt("schema", "--out", "link.json")[0] == 0
    assert Path("link.json").is_symlink()
    assert "attention.mha" in json.loads(Path("target.json").read_text())["$defs"]
    os.mkfifo("pipe")
    code, _, err = minigpt("schema", "--out", "pipe")
    assert (code, err) == (2, "error: pipe cannot be written: No such device or address\n"), "nobody reads it"
    reader = subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE)
    while minigpt("schema", "--out", "pipe")[0] != 0:  # until it has opened the pipe
        pass
    assert "attention.mha" in json.loads(reader.communicate()[0])["$defs"]
    assert Path("pipe").is_fifo()
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    for name, what in (("folder", "a folder"), ("socket", "not an ordinary file")):
        for command in (["schema", "--out"], ["report", ".", "--out"], ["bench", "train", "--json"]):
            assert minigpt(*command, name)[::2] == (2, f"error: {name} is {what}: name a file\n")


def test_an_output_file_stays_if_the_disk_is_full(minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("schema.json").write_text("old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_all", full)
    code, _, err = minigpt("schema", "--out", "schema.json")
    assert (code, "schema.json cannot be written: No space left on device" in err) == (2, True)
    assert Path("schema.json").read_text() == "old"


def test_no_width_in_the_environment_hides_the_tables(minigpt: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setenv("LINES", "0")
    assert drawing.terminal(width=None).width == 80
    assert "mha" in minigpt("list", "attention")[1]


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
