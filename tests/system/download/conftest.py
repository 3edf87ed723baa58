"""A server, no waiting between attempts, and no warnings about closed sockets in later tests."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from minigpt.system import download as cache
from tests.faulty_server import FaultyServer, serving
from tests.system.download.corpus import CONTENT


def pytest_itemcollected(item: pytest.Item) -> None:
    """http.client closes an incomplete response when it is garbage-collected, and then warns that it was open."""
    item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving(CONTENT) as server:
        yield server


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
