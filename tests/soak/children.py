"""Training in processes that can be killed at any moment. They are forked, so a trial costs no second of imports."""

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

estimate._AT_MOST_UPDATES = 2  # what is measured before a training is not what is tried here
TEXT = "".join(f"{a} times {b} is {a * b}.\n" for a in range(2, 14) for b in range(2, 14))
CLOCKS = {"seconds", "wall", "tokens_per_second", "other_cpu"}  # what may differ
REFUSED, FAILED = 2, 97


def small(folder: Path, name: str = "small", **changes: Any) -> Experiment:
    """A model of some thousand weights that evaluates and saves every few of its updates."""
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
    """Makes a file when it is first told something: signals are taken over by then."""

    def __init__(self, file: Path | None):
        super().__init__(io.StringIO())
        self.file = file

    def note(self, text: str) -> None:
        if self.file is not None:
            self.file.touch()

    def begin(self, plan: Plan) -> None:
        super().begin(plan)
        self.note("")


def sit(experiment: Experiment, out: Path, announce: Path | None = None) -> int:
    """Train, or go on with what is there; the exit code that the command line would have."""
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
    """A forked process that does something and leaves with its exit code; what it prints is in `said`."""

    def __init__(self, work: Callable[[], int]):
        self.said = ""
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
        except BaseException:  # a child must not go on as its parent, whatever happens in it
            traceback.print_exc()
        finally:
            os._exit(code)

    def signal(self, number: int) -> None:
        """Send it one; it may have ended by itself."""
        os.kill(self.pid, number)

    def wait(self, most: float = 120.0) -> int:
        """Its exit code, -N if signal N ended it; a child that hangs is killed, and that is a failure."""
        timer = threading.Timer(most, os.kill, (self.pid, signal.SIGABRT))
        timer.start()
        _, status = os.waitpid(self.pid, 0)
        timer.cancel()
        self.said = Path(self.output).read_text("utf-8", "replace")
        os.unlink(self.output)
        return os.waitstatus_to_exitcode(status)


def die_after(calls: int) -> None:
    """Kill this process at the n-th call of a Python function from now: the same moment each time."""
    left = calls

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def count_calls(work: Callable[[], int]) -> int:
    """How many calls of Python functions something takes."""
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
    """Import here what training imports late, so that no child has to; torch's fused kernels are chosen then, too."""
    assert sit(small(folder), folder / "warm") == 0


def timed(work: Callable[[], int]) -> float:
    """Seconds that a child of its own takes for it."""
    start = time.monotonic()
    child = Child(work)
    assert child.wait() == 0, child.said
    return time.monotonic() - start


def differences(one: RunFolder, two: RunFolder) -> list[str]:
    """In what two finished runs differ, but for their clocks; nothing if they are the same to the bit."""
    found = []
    rows = [[{k: v for k, v in row.to_json().items() if k not in CLOCKS} for row in run.rows()] for run in (one, two)]
    steps = [row["step"] for row in rows[1]]
    if steps != list(range(1, len(steps) + 1)):
        found.append(f"lines of metrics.jsonl are doubled or missing: {steps}")
    if rows[0] != rows[1]:
        found.append("metrics.jsonl")
    if one.samples.read_bytes() != two.samples.read_bytes():
        found.append("samples.txt")
    a, b = checkpoint.load(one.checkpoints), checkpoint.load(two.checkpoints)
    if a is None or b is None:
        return [*found, "a checkpoint is missing"]
    found += [name for name, tensor in a.weights.items() if not torch.equal(tensor, b.weights[name])]
    if not _same(a.optimizer, b.optimizer):
        found.append("the optimizer's state")
    first, second = ((c.progress.step, c.progress.best_step, c.progress.best_val_loss, c.progress.tokens) for c in (a, b))
    return [*found, *([] if first == second else [f"progress {first} and {second}"])]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b
