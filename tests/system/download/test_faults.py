"""With any fault of the server, and any faults in a row, a download ends with the file or one clear line."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minigpt.errors import DataError
from minigpt.system import download as cache
from tests.faulty_server import FAULTS, FaultyServer, serving
from tests.system.download.corpus import (
    CONTENT,
    check_that_nothing_bad_is_kept,
    impatience,
    part_of,
    remote,
    write_earlier_download,
)

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
