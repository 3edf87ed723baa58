"""In a cache that others can write to, no link is written through and no endless file is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minigpt.errors import DataError
from minigpt.system import download as cache
from minigpt.system.download import RemoteFile
from minigpt.system.files import write_bytes
from tests.faulty_server import FaultyServer
from tests.system.download import corpus
from tests.system.download.corpus import CONTENT

SECRET = CONTENT[:700]  # bytes that a download could resume from
LINKS: dict[str, Callable[[Path, Path], None]] = {
    "symbolic": lambda link, to: link.symlink_to(to),
    "hard": lambda link, to: link.hardlink_to(to),
    "through another": lambda link, to: (link.with_name("other").symlink_to(to), link.symlink_to(link.with_name("other")))[
        1
    ],
}


def remote(url: str) -> RemoteFile:
    """The corpus at this address; the folder of the cache exists."""
    file = corpus.remote(url)
    file.path.parent.mkdir(parents=True, exist_ok=True)
    return file


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file of the user, which must not change in the test."""
    file = tmp_path / "victim"
    file.write_bytes(SECRET)
    yield file
    assert file.read_bytes() == SECRET


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("place", ["corpus.txt", "corpus.txt.part", ".corpus.txt.new"])
@pytest.mark.parametrize("adds", [False, True])
def test_a_link_in_the_cache_is_replaced_and_not_written_through(
    server: FaultyServer, tmp_path: Path, victim: Path, link: str, place: str, adds: bool
) -> None:
    file = remote(server.url("right"))
    LINKS[link](file.path.with_name(place), victim)
    if adds:
        (tmp_path / "right").write_bytes(CONTENT)
        cache.add(file, tmp_path / "right")
    else:
        assert cache.read(file, "?") == CONTENT
        assert server.ranges() == [None]
    assert not file.path.is_symlink()
    assert file.path.read_bytes() == CONTENT


def test_a_dangling_link_creates_no_file(server: FaultyServer, tmp_path: Path) -> None:
    file = remote(server.url("right"))
    file.path.with_name("corpus.txt.part").symlink_to(tmp_path / "nowhere")
    assert cache.read(file, "?") == CONTENT
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_that_is_a_link_is_refused(server: FaultyServer, victim: Path) -> None:
    file = remote(server.url("right"))
    file.path.with_name("corpus.txt.lock").symlink_to(victim)
    with pytest.raises(DataError, match="corpus.txt cannot be written: .*; set MINIGPT_CACHE to another folder"):
        cache.read(file, "?")


@pytest.mark.parametrize("endless", ["/dev/zero", "pipe", "300 GB"])
def test_endless_files_are_not_read(tmp_path: Path, server: FaultyServer, endless: str) -> None:
    given = Path(endless) if endless == "/dev/zero" else tmp_path / "given"
    if endless == "pipe":
        os.mkfifo(given)
    elif endless == "300 GB":
        given.touch()
        os.truncate(given, 300 * 10**9)
    file = remote(server.url("right"))
    with pytest.raises(
        DataError, match=f"{given} (is not an ordinary file|has 300,000,000,000 bytes; at most 67,108,864 are read)"
    ):
        cache.add(file, given)
    file.path.symlink_to(given)
    assert not cache.cached(file)
    assert cache.read(file, "?") == CONTENT


def test_our_own_file_is_not_written_through_a_link(tmp_path: Path, victim: Path) -> None:
    for link in (LINKS["symbolic"], LINKS["hard"]):
        for place in ("state.json", ".state.json.new"):
            link(tmp_path / place, victim)
            write_bytes(tmp_path / "state.json", b"new")
            assert (tmp_path / "state.json").read_bytes() == b"new"
            (tmp_path / "state.json").unlink()
