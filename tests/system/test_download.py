"""Downloads from a local server that fails in every way."""

from __future__ import annotations

import gc
import hashlib
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from filelock import FileLock
from hypothesis import example, given
from hypothesis import strategies as st

from minigpt.components.dataset.tinyshakespeare import TinyShakespeare
from minigpt.errors import DataError
from minigpt.system import download as cache
from minigpt.system.download import RemoteFile
from tests.faulty_server import FAULTS, FaultyServer, serving

CONTENT = b"".join(b"%d: To be, or not to be\n" % line for line in range(1000))[:20_000]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving(CONTENT) as server:
        yield server


# http.client closes an incomplete response when it is garbage-collected, and then warns that it was open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True, scope="module")
def _collected() -> Iterator[None]:
    """Collect garbage before tests that allow no such warning."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between attempts, recorded instead of waited."""
    seconds: list[float] = []
    monkeypatch.setattr(cache, "time", SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=seconds.append))
    monkeypatch.setattr(cache, "_BACK_OFF_SECONDS", 1.0)  # other tests wait for no time
    monkeypatch.setenv("NO_PROXY", "*")
    return seconds


@contextmanager
def impatience() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_READ_SECONDS", 0.05)
        patch.setattr(cache, "_ANSWER_SECONDS", 0.1)
        patch.setattr(cache, "_WINDOW_SECONDS", 0.1)
        yield


def remote(url: str, content: bytes = CONTENT) -> RemoteFile:
    return RemoteFile("corpus.txt", url, len(content), hashlib.sha256(content).hexdigest())


def part_of(file: RemoteFile) -> Path:
    return file.path.with_name("corpus.txt.part")


def write_earlier_download(content: bytes) -> None:
    part = part_of(remote("?"))
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)


def refused(file: RemoteFile) -> str:
    with pytest.raises(DataError) as failure:
        cache.read(file, "do this")
    return str(failure.value)


# ------------------------------------------------------------------------------------------------ invariants


def check_that_nothing_bad_is_kept(file: RemoteFile) -> None:
    """After any outcome there is the file or no file, and beside it at most a part and a lock."""
    assert not file.path.exists() or file.path.read_bytes() == CONTENT
    assert {each.name for each in file.path.parent.iterdir()} <= {"corpus.txt", "corpus.txt.part", "corpus.txt.lock"}


CASES = [
    *(
        "right",
        "right_unsized",
        "no_ranges",
        "gzipped",
        "gzipped_if_welcome",
        "redirect",
        "loop",
        "redirect_to_file",
        "redirect_to_nonsense",
    ),
    *(
        "cut:0",
        "cut:7000",
        "cut_unsized:7000",
        "cut_chunked:7000",
        "cut_head",
        "hang_up",
        "reset:0",
        "reset:7000",
        "not_http",
    ),
    *("stall:0", "stall:7000", "silent", "gate:7000", "drip:0.01", "drip_head:0.01"),
    *("status:204", "status:404", "status:416", "status:500", "status:503", "busy:1", "busy:3600", "busy:soon"),
    *("wrong", "long", "long_unsized", "short", "short_unsized", "refuses_ranges"),
    *("other_range:", "other_range:bytes_0-19999/20000", "other_range:bytes_7001-19999/20000", "other_range:nonsense"),
    *("lying_range:rest", "lying_range:all"),
]


@pytest.mark.parametrize("beginning", ["nothing", "part"])
@pytest.mark.parametrize("fault", CASES)
def test_with_any_fault_the_outcome_is_the_file_or_one_clear_line(server: FaultyServer, fault: str, beginning: str) -> None:
    server.gate.set()
    if beginning == "part":
        write_earlier_download(CONTENT[:7000])
    file = remote(server.url(fault))
    try:
        with impatience():
            assert cache.read(file, "do this") == CONTENT
        assert file.path.read_bytes() == CONTENT
    except DataError as failure:
        line = str(failure)
        assert line.startswith(f"corpus.txt could not be downloaded from {file.url} (")
        assert line.endswith("; do this")
        assert line.isprintable()
    check_that_nothing_bad_is_kept(file)
    assert len(server.requests) <= 4 * (31 if fault == "loop" else 1 + ("redirect" in fault))
    assert cache.read(remote(server.url("right")), "do this") == CONTENT, "left files do not prevent the next download"


def test_every_fault_of_the_server_is_tried() -> None:
    assert {case.partition(":")[0] for case in CASES} == set(FAULTS)


QUICK = [case for case in CASES if not case.startswith(("stall", "silent", "drip", "gate", "loop"))]


@given(
    faults=st.lists(st.sampled_from(QUICK) | st.integers(0, len(CONTENT)).map("cut:{}".format), max_size=6),
    part=st.none() | st.integers(0, len(CONTENT)).map(lambda n: CONTENT[:n]) | st.binary(max_size=len(CONTENT) + 9),
    damaged=st.booleans(),
)
@example(faults=["cut:7000", "wrong"], part=None, damaged=True)
@example(faults=["cut:19999", "short_unsized", "lying_range:rest"], part=CONTENT[:1], damaged=False)
def test_after_any_faults_in_a_row_a_further_call_succeeds(faults: list[str], part: bytes | None, damaged: bool) -> None:
    shutil.rmtree(cache.cache_folder(), ignore_errors=True)
    if part is not None:
        write_earlier_download(part)
    with serving(CONTENT) as server:
        file = remote(server.url(*faults, "right"))
        if damaged:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            file.path.write_bytes(CONTENT[::-1])
        for _ in range(len(faults) + 2):
            held = part_of(file).stat().st_size if part_of(file).exists() else 0
            before = len(server.requests)
            try:
                content = cache.read(file, "do this")
            except DataError:
                assert len(server.requests) - before <= 4 + faults.count("redirect")
                if 0 < held < len(CONTENT):
                    assert server.ranges()[before] == f"bytes={held}-"
                assert not cache.cached(file)
                continue
            assert content == CONTENT
            assert file.path.read_bytes() == CONTENT
            assert not part_of(file).exists()
            return
        raise AssertionError(server.requests)


# ------------------------------------------------------------------------------------------------ with a right server


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


# ------------------------------------------------------------------------------------------------ trying again


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


# ------------------------------------------------------------------------------------------------ resuming


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


CHILD = """
import sys, requests
from minigpt.system import download as cache
file = cache.RemoteFile(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
print(len(cache.read(file, "do this")))
"""


@pytest.fixture
def child() -> Iterator[Callable[[RemoteFile], subprocess.Popen[str]]]:
    """A function that starts another process, which reads a file on a signal."""
    children = []

    def start(file: RemoteFile) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, file.name, file.url, str(file.size), file.sha256]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return children[-1]

    yield start
    for each in children:
        each.kill()
        each.communicate()


def send_start(*children: subprocess.Popen[str]) -> None:
    for each in children:
        assert each.stdout
        assert each.stdout.readline() == "ready\n"
    for each in children:
        assert each.stdin
        each.stdin.write("go\n")
        each.stdin.flush()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_bytes_of_a_killed_process_are_not_requested_again(
    server: FaultyServer, child: Callable[[RemoteFile], subprocess.Popen[str]]
) -> None:
    file = remote(server.url("gate:700", "right"))
    process = child(file)
    send_start(process)
    until(lambda: part_of(file).exists() and part_of(file).stat().st_size == 700)
    process.kill()
    process.wait()
    assert not file.path.exists()
    assert cache.read(file, "?") == CONTENT
    assert server.ranges() == [None, "bytes=700-"]


# ------------------------------------------------------------------------------------------------ at the same time


def test_of_several_processes_one_downloads(
    server: FaultyServer, child: Callable[[RemoteFile], subprocess.Popen[str]]
) -> None:
    processes = [child(remote(server.url("gate:7000"))) for _ in range(3)]
    send_start(*processes)
    until(lambda: bool(server.requests))
    time.sleep(0.3)  # until the others have started too
    server.gate.set()
    assert [each.communicate()[0] for each in processes] == ["20000\n"] * 3
    assert server.ranges() == [None]


def test_of_several_threads_one_downloads(server: FaultyServer) -> None:
    barrier = threading.Barrier(5)

    def read() -> bytes:
        barrier.wait()
        return cache.read(remote(server.url("gate:7000")), "?")

    with ThreadPoolExecutor(4) as pool:
        contents = [pool.submit(read) for _ in range(4)]
        barrier.wait()
        until(lambda: bool(server.requests))
        time.sleep(0.1)
        server.gate.set()
        assert [each.result() for each in contents] == [CONTENT] * 4
    assert server.ranges() == [None]


def test_the_wait_for_another_process_has_a_limit(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.1)
    file = remote(server.url("right"))
    file.path.parent.mkdir(parents=True)
    with FileLock(file.path.with_name("corpus.txt.lock"), thread_local=False) as lock:
        at_the_latest = threading.Timer(5, lock.release)
        at_the_latest.start()
        assert refused(file) == "another process has been downloading corpus.txt for 0 seconds; wait for it, or do this"
        at_the_latest.cancel()
    assert server.requests == []


# ------------------------------------------------------------------------------------------------ slow servers


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


# ------------------------------------------------------------------------------------------------ the cache's folder


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
