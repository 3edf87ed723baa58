"""Damage, a full disk, and wrong permissions in the folder of the cache; a file that the user adds."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from minigpt.components.dataset.tinyshakespeare import TinyShakespeare
from minigpt.errors import DataError
from minigpt.system import download as cache
from tests.faulty_server import FaultyServer
from tests.system.download.corpus import CONTENT, check_that_nothing_bad_is_kept, part_of, refused, remote


def test_a_damaged_file_in_the_cache_is_replaced(server: FaultyServer) -> None:
    file = remote(server.url("status:500", "right"))
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(CONTENT[:-1] + b"x")
    assert not cache.cached(file)
    assert cache.read(file, "?") == CONTENT
    assert file.path.read_bytes() == CONTENT


def test_a_damaged_file_that_cannot_be_replaced_is_reported_and_not_used(server: FaultyServer) -> None:
    file = remote(server.url("status:404"))
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(CONTENT[:-1] + b"x")
    assert f"(HTTP 404); {file.path} is damaged or cannot be read; do this" in refused(file)
    assert not cache.cached(file)


def test_on_a_full_disk_the_written_bytes_are_kept(server: FaultyServer) -> None:
    file = remote(server.url("right"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        line = refused(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert line == f"{file.path} cannot be written: File too large; set MINIGPT_CACHE to another folder"
    check_that_nothing_bad_is_kept(file)
    assert part_of(file).read_bytes() == CONTENT[:9000]
    assert cache.read(file, "?") == CONTENT
    assert server.ranges() == [None, "bytes=9000-"]


def test_a_cache_that_cannot_be_written_is_reported(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "right").write_bytes(CONTENT)
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "file"))
    file = remote(server.url("right"))
    with pytest.raises(DataError, match="cannot be written: .*; set MINIGPT_CACHE to another folder"):
        cache.add(file, tmp_path / "right")
    assert refused(file) == f"{file.path} cannot be written: Not a directory; set MINIGPT_CACHE to another folder"
    assert server.requests == []


def test_a_folder_at_the_files_path_is_reported(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "right").write_bytes(CONTENT)
    file = remote(server.url("right"))
    file.path.mkdir(parents=True)
    message = f"{file.path} cannot be written: Is a directory; set MINIGPT_CACHE to another folder"
    with pytest.raises(DataError, match=message):
        cache.add(file, tmp_path / "right")
    assert list(file.path.parent.iterdir()) == [file.path]
    assert refused(file) == message
    assert part_of(file).read_bytes() == CONTENT


def test_a_users_copy_is_added_after_the_same_check(tmp_path: Path) -> None:
    file = remote("http://127.0.0.1:9/")
    (tmp_path / "right").write_bytes(CONTENT)
    (tmp_path / "wrong").write_bytes(CONTENT + b"x")
    with pytest.raises(DataError, match="is not corpus.txt: 20,001 bytes, expected 20,000; nothing was added"):
        cache.add(file, tmp_path / "wrong")
    with pytest.raises(DataError, match="nowhere cannot be read: No such file"):
        cache.add(file, tmp_path / "nowhere")
    assert not cache.cached(file)
    assert cache.add(file, tmp_path / "right").read_bytes() == CONTENT
    assert cache.cached(file)


def test_without_a_network_the_next_step_is_reported() -> None:
    with pytest.raises(
        DataError, match=r"could not be downloaded .*minigpt data add tinyshakespeare FILE.*experiments/quickstart.json"
    ):
        TinyShakespeare().load()
