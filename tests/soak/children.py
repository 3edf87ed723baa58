"""Training in child processes that can be killed at any moment. They are forked, which saves the time of imports."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.reading import load_experiment
from minigpt.run import RunFolder, checkpoint
from minigpt.training import PlainObserver, estimate, resume, train
from minigpt.training.observer import Plan

estimate._AT_MOST_UPDATES = 2  # the time estimate before training is not tested here
TEXT = "".join(f"{a} times {b} is {a * b}.\n" for a in range(2, 14) for b in range(2, 14))
CLOCKS = {"seconds", "wall", "tokens_per_second", "other_cpu"}  # columns of metrics.jsonl that may differ
REFUSED, FAILED = 2, 97


def small(folder: Path, name: str = "small", **changes: Any) -> Experiment:
    """An experiment with some thousand weights, which evaluates and saves every few updates."""
    corpus = folder / "corpus.txt"
    if not corpus.exists():
        corpus.write_text(TEXT)
    document: dict[str, Any] = {
        "name": name,
        "data": {"name": "text", "paths": [str(corpus)]},
        "model": {"d_model": 16, "n_heads": 2, "n_layers": 2, "block_size": 16, "dropout": 0.1, **changes.pop("model", {})},
        "training": {
            "batch_size": 4,
            "max_iters": 24,
            "eval_interval": 8,
            "checkpoint_interval": 3,
            "precision": "fp32",
            "compile": False,
            **changes.pop("training", {}),
        },
        "sampling": {"max_new_tokens": 12},
        **changes,
    }
    return load_experiment(document)


class _Announcing(PlainObserver):
    """Creates a file at the first message: by then the signal handlers are installed."""

    def __init__(self, file: Path | None):
        super().__init__(io.StringIO())
        self.file = file

    def note(self, text: str) -> None:
        if self.file is not None:
            self.file.touch()

    def begin(self, plan: Plan) -> None:
        super().begin(plan)
        self.note("")


def train_or_resume(experiment: Experiment, out: Path, announce: Path | None = None) -> int:
    """Train, or resume the run if it exists. Returns the exit code that the command would have."""
    run = RunFolder.of(experiment, out)
    observer = _Announcing(announce)
    try:
        if run.exists():
            if run.is_finished():
                return 0
            outcome = resume(run.path, observer=observer)
        else:
            outcome = train(experiment, out=out, device="cpu", threads=1, observer=observer)
    except MinigptError as error:
        print(error, file=sys.stderr)
        return REFUSED
    return 0 if outcome.status == "finished" else 128 + (outcome.stop_signal or 0)


class Child:
    """A forked process that calls `work` and exits with the code that it returns. Its output is in `printed`."""

    def __init__(self, work: Callable[[], int]):
        self.printed = ""
        handle, self.output = tempfile.mkstemp(prefix="child-")
        self.pid = os.fork()
        if self.pid == 0:
            self._do(work, handle)
        os.close(handle)

    def _do(self, work: Callable[[], int], handle: int) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        torch.set_num_threads(1)
        code = FAILED
        try:
            code = work()
        except BaseException:  # a child must never run the parent's code, even after an error
            traceback.print_exc()
        finally:
            os._exit(code)

    def signal(self, number: int) -> None:
        """Send a signal to the process, which may have ended already."""
        os.kill(self.pid, number)

    def wait(self, most: float = 120.0) -> int:
        """Wait for the exit code, -N if signal N ended the process. A child that hangs is killed with SIGABRT."""
        timer = threading.Timer(most, os.kill, (self.pid, signal.SIGABRT))
        timer.start()
        _, status = os.waitpid(self.pid, 0)
        timer.cancel()
        self.printed = Path(self.output).read_text("utf-8", "replace")
        os.unlink(self.output)
        return os.waitstatus_to_exitcode(status)


def die_after(calls: int) -> None:
    """Kill this process at the n-th call of a Python function from now, which is always the same moment."""
    remaining = calls

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def count_calls(work: Callable[[], int]) -> int:
    """The number of calls of Python functions in `work`."""
    number = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal number
        number += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return number


def warm_up(folder: Path) -> None:
    """Train once in this process, so that children need no imports. Also lets torch choose its fused kernels."""
    assert train_or_resume(small(folder), folder / "warm") == 0


def timed(work: Callable[[], int]) -> float:
    """Seconds that a child process needs for `work`."""
    start = time.monotonic()
    child = Child(work)
    assert child.wait() == 0, child.printed
    return time.monotonic() - start


def differences(one: RunFolder, two: RunFolder) -> list[str]:
    """The differences between two finished runs, except times. Empty if the runs are bit-identical."""
    differing = []
    rows = [[{k: v for k, v in row.to_json().items() if k not in CLOCKS} for row in run.rows()] for run in (one, two)]
    steps = [row["step"] for row in rows[1]]
    if steps != list(range(1, len(steps) + 1)):
        differing.append(f"lines of metrics.jsonl are doubled or missing: {steps}")
    if rows[0] != rows[1]:
        differing.append("metrics.jsonl")
    if one.samples.read_bytes() != two.samples.read_bytes():
        differing.append("samples.txt")
    a, b = checkpoint.load(one.checkpoints), checkpoint.load(two.checkpoints)
    if a is None or b is None:
        return [*differing, "a checkpoint is missing"]
    differing += [name for name, tensor in a.weights.items() if not torch.equal(tensor, b.weights[name])]
    if not _same(a.optimizer, b.optimizer):
        differing.append("the optimizer's state")
    first, second = ((c.progress.step, c.progress.best_step, c.progress.best_val_loss, c.progress.tokens) for c in (a, b))
    return [*differing, *([] if first == second else [f"progress {first} and {second}"])]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b
