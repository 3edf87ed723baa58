"""Signals that the system sends: a closed terminal, a batch system's warning, the limit of processor time."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minigpt.cli.outliving import OutlivingStream
from minigpt.reading import load_experiment
from minigpt.run import MetricsRow, RunFolder, checkpoint
from minigpt.training import PlainObserver, resume
from tests.soak.children import differences
from tests.training.conftest import Watcher, Write, run

SIGNALS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    """Reset the signals to their defaults, because nohup ignores SIGHUP."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Signalling(Watcher):
    """Sends a signal `times` times after the n-th update."""

    def __init__(self, number: int, at: int, times: int = 1):
        super().__init__()
        self.number, self.at, self.times = number, at, times

    def updated(self, row: MetricsRow) -> None:
        super().updated(row)
        if row.step == self.at:
            for _ in range(self.times):
                signal.raise_signal(self.number)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_saves_and_stops_and_a_second_one_is_ignored(
    number: signal.Signals, write_experiment: Write, undisturbed: Callable[..., RunFolder], tmp_path: Path
) -> None:
    part = run(load_experiment(write_experiment()), tmp_path / "part", Signalling(number, at=13, times=3))
    assert (part.status, part.stop_signal, part.progress.step) == ("stopped", number, 13)
    assert signal.getsignal(number) is signal.SIG_DFL, "the handler is restored"
    if number == signal.SIGHUP:
        assert resume(part.run.path, observer=Watcher()).status == "finished"
        assert not differences(undisturbed(), part.run)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
def test_an_ignored_or_handled_signal_keeps_its_handler(handler: Any, write_experiment: Write, tmp_path: Path) -> None:
    """Under nohup a closed terminal does not stop the run; a batch system's own client may handle the warnings."""
    for number in SIGNALS:
        signal.signal(number, handler)
    short = load_experiment(write_experiment(max_iters=4))
    outcome = run(short, tmp_path, Signalling(signal.SIGHUP, at=2))
    assert outcome.status == "finished"
    assert all(signal.getsignal(number) == handler for number in SIGNALS)


def test_an_ignored_interrupt_stays_ignored(write_experiment: Write, tmp_path: Path) -> None:
    """A Ctrl-C for another program does not stop a script's `minigpt run ... &`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        outcome = run(load_experiment(write_experiment(max_iters=4)), tmp_path, Signalling(signal.SIGINT, at=2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.status == "finished"


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    flush = write  # type: ignore[assignment]


def test_training_continues_if_its_output_is_closed(write_experiment: Write, tmp_path: Path) -> None:
    outcome = run(load_experiment(write_experiment(max_iters=4)), tmp_path, PlainObserver(Gone()))  # type: ignore[arg-type]
    assert outcome.status == "finished"
    stream = OutlivingStream(Gone())
    print("nobody reads this", file=stream, flush=True)  # type: ignore[arg-type]
    stream.flush()
    assert not stream.isatty()


@pytest.mark.slow
def test_a_closed_terminal_saves_and_exits_with_129(write_experiment: Write, tmp_path: Path) -> None:
    """A real terminal is closed: the kernel sends SIGHUP, and every later print fails."""
    file = write_experiment(max_iters=100_000, checkpoint_interval=50_000, eval_interval=50_000)
    child, terminal = pty.fork()
    if child == 0:
        command = [sys.executable, "-m", "minigpt", "run", str(file), "--no-check", "--threads", "1"]
        with contextlib.suppress(OSError):
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            os.chdir(tmp_path)
            os.execv(sys.executable, command)
        os._exit(97)
    folder = RunFolder(tmp_path / "runs" / "small" / "seed-1337")
    until = time.monotonic() + 60
    while not (folder.metrics.is_file() and folder.metrics.stat().st_size > 1000):
        assert time.monotonic() < until
        with contextlib.suppress(OSError):
            os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert checkpoint.available(folder.checkpoints) == [folder.rows()[-1].step]
