"""One arm with one seed, in a process of its own: train it or go on with it, measure it, and leave a record.

    python -m minigpt.lab.compare.cell JOB.json

Whatever happens here, the comparison goes on: what ends the process without a record is told from its exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TypedDict

import torch
import torch.nn.functional as F

from minigpt.data import Corpus, load_corpus
from minigpt.errors import DivergedError, MinigptError
from minigpt.experiment import Experiment
from minigpt.files import write_json
from minigpt.model import GPT
from minigpt.reading import load_experiment
from minigpt.run import RunFolder, open_run
from minigpt.training import PlainObserver, resume, train
from minigpt.training.machine import micro_batch_size

SAVES_WITHIN = 60.0
"""Seconds from being asked to stop to being gone: an update, and a checkpoint. A plugin that hangs never comes to it."""

_LOOK_EVERY, _SAY_EVERY = 0.2, 10.0


class Job(TypedDict):
    """What the process is told.

    Attributes:
        experiment: Its file.
        seed: Of this run.
        run: Its folder; trained there unless it is finished.
        record: Where the outcome is to be written.
        key: What the outcome follows from; copied into it.
        device: As for `minigpt run`.
        threads: Likewise.
        allow_plugins: Likewise.
    """

    experiment: str
    seed: int
    run: str
    record: str
    key: str
    device: str
    threads: int | None
    allow_plugins: bool


def main() -> None:
    """Do the job in the file that the command line names."""
    job: Job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    do(job)


def do(job: Job) -> None:
    """Train, measure, and write the record, whatever happens."""
    record: dict[str, Any] = {"key": job["key"], "run": job["run"]}
    try:
        _train(job)
        record |= {"outcome": "finished", "position_loss": _loss_by_position(job)}
    except DivergedError as error:
        record |= {"outcome": "diverged", "message": str(error)}
    except Exception as error:  # a plugin may raise anything, and whatever it is is the outcome
        traceback.print_exc()
        text = str(error).splitlines()
        said = text[0] if isinstance(error, MinigptError) and text else f"{type(error).__name__}: {text[0] if text else ''}"
        record |= {"outcome": "crashed", "message": said}
    write_json(Path(job["record"]), record)


def _stop_with_parent() -> None:
    """The parent holds the other end of standard input; when it is gone, save and stop, and do not hang over that."""
    while sys.stdin.buffer.read(1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SAVES_WITHIN)
    os.kill(os.getpid(), signal.SIGKILL)


def _train(job: Job) -> None:
    run = RunFolder(Path(job["run"]))
    while run.is_in_use():  # by a process of a grid that was killed, which is saving
        time.sleep(_LOOK_EVERY)
    if run.is_finished():
        return
    if run.exists():
        outcome = resume(run.path, allow_plugins=job["allow_plugins"], observer=_Alive())
    else:
        experiment = load_experiment(
            job["experiment"], overrides=[f"seed={job['seed']}"], allow_plugins=job["allow_plugins"]
        )
        out = run.path.parents[1]
        assert RunFolder.of(experiment, out) == run
        outcome = train(experiment, out=out, device=job["device"], threads=job["threads"], observer=_Alive())
    if outcome.status == "stopped":
        sys.exit(128 + (outcome.stop_signal or signal.SIGTERM))


class _Alive(PlainObserver):
    """Lines for the log, and more of them in a long evaluation: a log that does not grow is that of a process that hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.last = time.monotonic()

    def evaluating(self, done: int, total: int) -> None:
        """A line now and then."""
        if time.monotonic() - self.last > _SAY_EVERY:
            self.last = time.monotonic()
            self.note(f"evaluated {done:,} of {total:,} targets")


def _loss_by_position(job: Job) -> list[float | None]:
    opened = open_run(job["run"], which="last", allow_plugins=job["allow_plugins"])
    learned = RunFolder(Path(job["run"])).learned()
    return loss_by_position(opened.model, load_corpus(opened.experiment, learned), opened.experiment)


@torch.no_grad()
def loss_by_position(model: GPT, corpus: Corpus, experiment: Experiment) -> list[float | None]:
    """Mean validation loss at each place in the window, in fp32: what is it worth to have seen so many tokens before?

    Args:
        model: In eval mode, on the CPU.
        corpus: Likewise.
        experiment: For the window.

    Returns:
        Nats for each of block_size places; None where no target counts.
    """
    length = experiment.model.block_size
    sums, counts = torch.zeros(length, dtype=torch.float64), torch.zeros(length, dtype=torch.int64)
    for batch in corpus.val.windows(micro_batch_size(experiment, torch.device("cpu")), length):
        logits = model(batch.tokens)
        losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").view_as(batch.targets)
        counted = torch.ones_like(batch.targets, dtype=torch.bool) if batch.mask is None else batch.mask
        time = batch.targets.shape[1]
        sums[:time] += (losses.double() * counted).sum(0)
        counts[:time] += counted.sum(0)
    return [total / count if count else None for total, count in zip(sums.tolist(), counts.tolist(), strict=True)]


if __name__ == "__main__":
    main()
