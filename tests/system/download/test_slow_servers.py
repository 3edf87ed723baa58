"""A server that is silent or too slow is given up after a limited time."""

from __future__ import annotations

import re
from contextlib import suppress
from types import SimpleNamespace

import pytest

from minigpt.system import download as cache
from tests.faulty_server import FaultyServer
from tests.system.download.corpus import CONTENT, impatience, part_of, refused, remote


def test_the_wait_for_a_silent_server_has_a_limit(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setattr(cache, "_READ_SECONDS", 0.05)
    assert "(timed out; 4 attempts); do this" in refused(remote(server.url("silent")))
    assert "(timed out; 4 attempts); do this" in refused(remote(server.url("stall:0")))
    assert waits == [1, 2, 4] * 2


def test_the_wait_for_slow_headers_has_a_limit(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_ANSWER_SECONDS", 0.1)
    assert "(timed out; 4 attempts); do this" in refused(remote(server.url("drip_head:0.01")))


def test_a_slow_download_is_given_up_and_resumed(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setattr(cache, "_WINDOW_SECONDS", 0.1)
    file = remote(server.url("drip:0.005"))
    line = refused(file)
    kept = part_of(file).read_bytes()
    assert 0 < len(kept) < 100
    assert CONTENT.startswith(kept)
    kept_text = f"{len(kept)} of 20,000 bytes are kept, and the next call resumes there"
    assert re.search(rf"\(too slow: {len(kept)} bytes in \d+ seconds\); {kept_text}; do this$", line)
    assert waits == []
    assert cache.read(remote(server.url("right")), "?") == CONTENT
    assert server.ranges() == [None, f"bytes={len(kept)}-"]


def seconds_taken(rates: list[int], missing: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Seconds until a body that arrives at these rates is complete or given up."""
    now = 0

    def read1(amount: int, decode_content: bool) -> bytes:
        nonlocal now
        now += 1
        return bytes(rates[now - 1]) if now <= len(rates) else b""

    monkeypatch.setattr(cache, "time", SimpleNamespace(monotonic=lambda: float(now)))
    response = SimpleNamespace(raw=SimpleNamespace(read1=read1))
    with suppress(cache._PermanentError):
        for _ in cache._chunks(response, missing):  # type: ignore[arg-type]
            pass
    return now


def test_the_rate_limit_counts_only_recent_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seconds_taken([1100] * 500, 10**9, monkeypatch) == 501, "slow but above the limit: read to the end"
    assert seconds_taken([1000] * 500, 10**9, monkeypatch) == 31, "too slow"
    assert seconds_taken([10**6] * 100 + [10] * 500, 10**9, monkeypatch) == 124 + 31, "too slow after a fast start"
    assert seconds_taken([1] * 500, 40, monkeypatch) == 31
    assert seconds_taken([1] * 500, 31, monkeypatch) == 501, "no bytes are missing any more"


def test_the_reason_is_the_servers_even_inside_another_exception(server: FaultyServer) -> None:
    try:
        raise OSError(1, "something else")
    except OSError:
        with impatience():
            error = refused(remote(server.url("stall:0")))
        assert "(timed out; 4 attempts)" in error
