"""A download from a sound server is checked, kept, and on the disk before it has its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minigpt.system import download as cache
from tests.faulty_server import FaultyServer
from tests.system.download.corpus import CONTENT, remote


def test_a_download_is_checked_kept_and_not_repeated(server: FaultyServer) -> None:
    file = remote(server.url("right"))
    assert not cache.cached(file)
    assert cache.read(file, "?") == CONTENT
    assert cache.cached(file)
    assert cache.read(file, "?") == CONTENT
    assert cache.fetch(file, "?") == CONTENT
    assert server.ranges() == [None]


@pytest.mark.parametrize("fault", ["redirect", "right_unsized", "no_ranges", "gzipped"])
def test_valid_unusual_responses_are_accepted(server: FaultyServer, fault: str, waits: list[float]) -> None:
    assert cache.read(remote(server.url(fault)), "?") == CONTENT
    assert waits == []


def test_the_file_is_on_the_disk_before_it_has_its_name(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    really_fsync, really_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        steps.append("fsync")
        really_fsync(handle)

    def replace(old: Path, new: Path) -> None:
        steps.append(f"{old.name} becomes {new.name}")
        really_replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    cache.read(remote(server.url("right")), "?")
    assert steps == ["fsync", "corpus.txt.part becomes corpus.txt"]
