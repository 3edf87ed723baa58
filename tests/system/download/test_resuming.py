"""An interrupted download requests only the missing bytes, and checks the pieces that it puts together."""

from __future__ import annotations

import pytest

from minigpt.system import download as cache
from tests.faulty_server import FaultyServer
from tests.system.download.corpus import CONTENT, part_of, refused, remote, write_earlier_download


@pytest.mark.parametrize("fault", ["cut", "cut_unsized", "cut_chunked", "stall"])
def test_only_the_missing_bytes_are_requested(server: FaultyServer, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "stall":
        monkeypatch.setattr(cache, "_READ_SECONDS", 0.3)
    assert cache.read(remote(server.url(f"{fault}:7000", "cut:6000", "right")), "?") == CONTENT
    assert server.ranges() == [None, "bytes=7000-", "bytes=13000-"]


def test_the_next_call_resumes_where_the_last_call_gave_up(server: FaultyServer) -> None:
    file = remote(server.url("cut:2000"))
    kept = "8,000 of 20,000 bytes are kept, and the next call resumes there"
    assert f"(the response was interrupted; 4 attempts); {kept}; do this" in refused(file)
    assert part_of(file).read_bytes() == CONTENT[:8000]
    assert not cache.cached(file)
    assert cache.read(remote(server.url("right")), "?") == CONTENT
    assert server.ranges() == [None, "bytes=2000-", "bytes=4000-", "bytes=6000-", "bytes=8000-"]
    assert not part_of(file).exists()


def test_a_download_from_a_compressing_server_can_be_resumed(server: FaultyServer) -> None:
    assert cache.read(remote(server.url("cut:7000", "gzipped_if_welcome")), "?") == CONTENT
    assert server.ranges() == [None, "bytes=7000-"]


def test_a_server_without_ranges_sends_the_whole_file_again(server: FaultyServer) -> None:
    assert cache.read(remote(server.url("cut:7000", "no_ranges")), "?") == CONTENT
    assert server.ranges() == [None, "bytes=7000-"]


@pytest.mark.parametrize(
    "fault",
    [
        "status:416",
        *("other_range:", "other_range:nonsense", "other_range:bytes_0-19999/20000", "other_range:bytes_7001-19999/20000"),
        "other_range:bytes_7000-19999/30000",
        *("lying_range:rest", "lying_range:all", "gzipped"),
    ],
)
def test_pieces_that_do_not_fit_are_replaced_by_the_whole_file(server: FaultyServer, fault: str) -> None:
    assert cache.read(remote(server.url("cut:7000", fault, "right")), "?") == CONTENT
    assert server.ranges() == [None, "bytes=7000-", None]


@pytest.mark.parametrize(
    "content_range", ["", "nonsense", "bytes_0-19999/20000", "bytes_7001-19999/20000", "bytes_7000-19999/30000"]
)
def test_the_content_range_of_a_server_is_checked(server: FaultyServer, content_range: str) -> None:
    file = remote(server.url("status:500", "status:500", "cut:7000", f"other_range:{content_range}"))
    assert "(HTTP 206, not the bytes from 7,000 on; 4 attempts); do this" in refused(file)


@pytest.mark.parametrize(
    ("part", "ranges"),
    [
        (CONTENT, []),
        (CONTENT[:-1], ["bytes=19999-"]),
        (CONTENT[::-1], [None]),
        (CONTENT[:6999] + b"?", ["bytes=7000-", None]),
        (CONTENT + b"?", [None]),
        (b"", [None]),
    ],
    ids=["whole", "nearly", "of another file", "damaged", "too long", "empty"],
)
def test_bytes_of_an_earlier_download_are_used_if_they_are_right(
    server: FaultyServer, part: bytes, ranges: list[str | None]
) -> None:
    write_earlier_download(part)
    assert cache.read(remote(server.url("right")), "?") == CONTENT
    assert server.ranges() == ranges
