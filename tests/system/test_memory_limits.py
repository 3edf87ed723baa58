"""Running out of memory is a one-line error and exit code 2, in any library."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from minigpt.system import memory
from tests.conftest import Command


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((10**9,), np.dtype("int64")),  # type: ignore[attr-defined]
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
        ),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "where", ["preparing.load_corpus", "session.entropies", "building.build_model", "preparing.measure_speed"]
)
def test_running_out_of_memory_anywhere_is_a_one_line_error(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("some text " * 50)
    model = {"d_model": 8, "n_heads": 1, "n_layers": 1, "block_size": 8}
    Path("one.json").write_text(json.dumps({"data": {"name": "text", "paths": ["a.txt"]}, "model": model}))

    def fails(*arguments: object, **others: object) -> None:
        raise error

    monkeypatch.setattr(f"minigpt.training.{where}", fails)
    code, _, err = minigpt("run", "one.json")
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: out of memory (")
    assert line.endswith("; use a smaller corpus, model, block_size or micro_batch_size, or close other programs")


def test_another_error_of_torch_is_not_reported_as_out_of_memory(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.json").write_text("{}")

    def fails(*arguments: object, **others: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("minigpt.training.preparing.load_corpus", fails)
    with pytest.raises(RuntimeError, match="mat1"):
        minigpt("run", "one.json")


def test_a_limit_on_addresses_counts_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (in_use + 200_000_000, -1))
    left = memory.available_memory()
    assert left is not None
    assert 100_000_000 < left <= 200_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1, -1))
    assert memory.available_memory() == 0


_LIMITED = """
import resource, sys
import minigpt.training.session, minigpt.cli.run, minigpt.cli.display, rich.progress
from minigpt.cli import main
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, resource.RLIM_INFINITY))
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_with_200_mb_of_addresses_a_large_corpus_is_a_one_line_error(tmp_path: Path) -> None:
    """About 90 MB of text: reading needs 300 MB; 30 MB can be read, but not tokenized."""
    piece = " ".join("".join(random.Random(n).choices("abcdefgh", k=7)) for n in range(5000))
    for megabytes in (30, 90):
        (tmp_path / "a.txt").write_text(piece * (megabytes * 10**6 // len(piece)))
        model = {"d_model": 8, "n_heads": 1, "n_layers": 1, "block_size": 8}
        (tmp_path / "one.json").write_text(json.dumps({"data": {"name": "text", "paths": ["a.txt"]}, "model": model}))
        done = subprocess.run(
            [sys.executable, "-c", _LIMITED, "run", "one.json"], cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert "memory" in line
        assert not (tmp_path / "runs").exists()
