"""Which failures are tried again, how often, and how long the download waits between attempts."""

from __future__ import annotations

import hashlib
import socket
import ssl
import time
from email.utils import formatdate

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from minigpt.system import download as cache
from tests.faulty_server import FaultyServer
from tests.system.download.corpus import CONTENT, part_of, refused, remote


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("status:404", "HTTP 404"),
        ("status:403", "HTTP 403"),
        ("status:416", "HTTP 416"),
        ("status:204", "HTTP 204"),
        ("redirect_to_file", "No connection adapters were found for 'file:///etc/hostname'"),
        ("redirect_to_nonsense", "Invalid IPv6 URL"),
        ("short", "the server has another file: 19,995 bytes, expected 20,000"),
        ("long", "the server has another file: 60,000 bytes, expected 20,000"),
        ("long_unsized", "the server has another file: more than the expected 20,000 bytes"),
        ("busy:31", "HTTP 429, with no further request for 31 seconds"),
    ],
)
def test_permanent_failures_are_not_retried(server: FaultyServer, fault: str, reason: str, waits: list[float]) -> None:
    file = remote(server.url(fault))
    assert refused(file) == f"corpus.txt could not be downloaded from {file.url} ({reason}); do this"
    assert len(server.requests) == 1
    assert waits == []
    assert not part_of(file).exists()


def test_wrong_bytes_are_reported_with_their_digest_and_removed(server: FaultyServer) -> None:
    file = remote(server.url("wrong"))
    digest = hashlib.sha256(CONTENT[::-1]).hexdigest()
    assert f"(the server has another file: SHA-256 is {digest}, expected {file.sha256}); do this" in refused(file)
    assert len(server.requests) == 1
    assert not part_of(file).exists()


def test_redirects_in_a_circle_end(server: FaultyServer, waits: list[float]) -> None:
    assert "(Exceeded 30 redirects.); do this" in refused(remote(server.url("loop")))
    assert waits == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        *((f"status:{code}", f"HTTP {code}") for code in (408, 425, 429, 500, 502, 503, 504)),
        ("hang_up", "Remote end closed connection without response"),
        ("reset:0", "Connection reset by peer"),
        ("not_http", "SSH-2.0-OpenSSH_9.6"),
        ("cut:0", "the response was interrupted"),
        ("cut_unsized:0", "the response was interrupted"),
        ("cut_chunked:0", "the response was interrupted"),
    ],
)
def test_transient_failures_are_tried_four_times_with_longer_waits(
    server: FaultyServer, fault: str, reason: str, waits: list[float]
) -> None:
    file = remote(server.url(fault))
    line = refused(file)
    assert reason in line
    assert line.endswith("; 4 attempts); do this")
    assert len(server.requests) == 4
    assert waits == [1, 2, 4]
    again = remote(server.url(fault, fault, fault, "right"))
    assert cache.read(again, "?") == CONTENT


def test_an_unreachable_server_is_asked_four_times(waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "(Connection refused; 4 attempts); do this" in refused(remote(f"http://127.0.0.1:{port}/"))
    assert waits == [1, 2, 4]


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "certificate verify failed"),
    ],
)
def test_without_network_or_certificate_there_is_one_attempt(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], root: OSError, reason: str
) -> None:
    def get(*args: object, **kwargs: object) -> None:
        raise requests.ConnectionError("HTTPSConnectionPool(...)") from root

    monkeypatch.setattr(requests, "get", get)
    assert f"({reason}); do this" in refused(remote("https://example.org/"))
    assert waits == []


def test_the_wait_is_as_long_as_the_server_asks(server: FaultyServer, waits: list[float]) -> None:
    assert cache.read(remote(server.url("busy:7", "busy:0", "busy:soon", "right")), "?") == CONTENT
    assert waits == [7, 2, 4]


def test_a_server_may_give_the_wait_as_a_date() -> None:
    assert 50 < cache._retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert cache._retry_after(formatdate(time.time() - 60, usegmt=True)) == 0


@given(st.text() | st.integers().map(str))
@example("9" * 5000)
@example("Mon, 01 Jan 99999 00:00:00 GMT")
@example("Mon, 01 Jan 2024 00:00:00 +99999999999999999999")
def test_any_retry_after_header_gives_a_wait(value: str) -> None:
    assert cache._retry_after(value) >= 0
