"""Several processes and threads, and a killed one: each byte is requested once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from minigpt.system import download as cache
from minigpt.system.download import RemoteFile
from tests.faulty_server import FaultyServer
from tests.system.download.corpus import CONTENT, part_of, refused, remote

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
