"""The file that the tests of downloads request, and what they do with it in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minigpt.errors import DataError
from minigpt.system import download as cache
from minigpt.system.download import RemoteFile

CONTENT = b"".join(b"%d: To be, or not to be\n" % line for line in range(1000))[:20_000]


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


def check_that_nothing_bad_is_kept(file: RemoteFile) -> None:
    """After any outcome there is the file or no file, and beside it at most a part and a lock."""
    assert not file.path.exists() or file.path.read_bytes() == CONTENT
    assert {each.name for each in file.path.parent.iterdir()} <= {"corpus.txt", "corpus.txt.part", "corpus.txt.lock"}
