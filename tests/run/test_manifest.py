"""Tests of the manifest: if a process is killed while it replaces files, old and new versions are both accepted."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from minigpt.errors import RunError, WriteError
from minigpt.run.manifest import checked_bytes, is_expected, replace_files, write_manifest
from tests.faults import failing

BEFORE = {"provenance.json": b'{"a": 1}', "experiment.json": b'{"b": 1}', "tokenizer.json": b"{}"}
AFTER = {"provenance.json": b'{"a": 22}', "experiment.json": b'{"b": 33}'}


def begin(folder: Path) -> None:
    folder.mkdir()
    for name, content in BEFORE.items():
        (folder / name).write_bytes(content)
    write_manifest(folder, BEFORE)


def test_after_an_interrupted_replacement_every_file_is_accepted(tmp_path: Path) -> None:
    begin(tmp_path / "whole")
    with failing(tmp_path / "whole", None) as counted:
        replace_files(tmp_path / "whole", AFTER)
    assert len(counted.calls) > 10
    for n in range(1, len(counted.calls) + 1):
        folder = tmp_path / str(n)
        begin(folder)
        with failing(folder, n), contextlib.suppress(WriteError):  # closing a file may fail without harm
            replace_files(folder, AFTER)
        for name, content in BEFORE.items():
            assert checked_bytes(folder, name) in (content, AFTER.get(name))
            kept = (folder / name).read_bytes()
            (folder / name).write_bytes(kept.replace(b"}", b" }"))
            with pytest.raises(RunError, match="is damaged or was edited"):
                checked_bytes(folder, name)
            (folder / name).write_bytes(kept)
        replace_files(folder, AFTER)
        assert (folder / "manifest.json").read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()


def test_a_file_that_the_manifest_does_not_list_does_not_belong_to_the_run(tmp_path: Path) -> None:
    begin(tmp_path / "run")
    write_manifest(tmp_path / "run", {name: BEFORE[name] for name in ("provenance.json", "experiment.json")})
    assert not is_expected(tmp_path / "run", "tokenizer.json"), "the manifest does not list it"
    (tmp_path / "run" / "manifest.json").unlink()
    assert is_expected(tmp_path / "run", "tokenizer.json"), "an older version wrote no manifest"
