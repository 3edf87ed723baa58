"""`python -m tests.soak`: run every trial repeatedly until the time is over. The printed seed reproduces the trials."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a pool of threads does not survive a fork

import torch

from tests.soak.fuzz import Checkpoints, Experiments, Tokenizers
from tests.soak.trials import Damage, ExactResume, FailingDisk, FlatMemory, Kills, Races, Signals

TRIALS = {
    "kills": Kills,
    "signals": Signals,
    "races": Races,
    "damage": Damage,
    "failing-disk": FailingDisk,
    "exact-resume": ExactResume,
    "flat-memory": FlatMemory,
    "fuzz-experiments": Experiments,
    "fuzz-checkpoints": Checkpoints,
    "fuzz-tokenizers": Tokenizers,
}


def main() -> int:
    """Run the trials. Returns 1 if a trial failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="total time, shared equally by the trials")
    parser.add_argument("--seed", type=int, default=None, help="seed of an earlier call, to repeat its trials")
    parser.add_argument("--only", nargs="+", choices=list(TRIALS), default=list(TRIALS))
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    torch.set_num_threads(1)
    print(f"seed {seed}", flush=True)
    failures = 0
    for name in options.only:
        failures += _soak(name, seed, 60 * options.minutes / len(options.only))
    return 1 if failures else 0


def _soak(name: str, seed: int, seconds: float) -> int:
    chance, began = random.Random(f"{seed} {name}"), time.monotonic()
    done = runs = failures = 0
    with tempfile.TemporaryDirectory() as folder:
        trial = TRIALS[name](Path(folder))
        while runs == 0 or time.monotonic() - began < seconds:
            number, wrong = trial(chance)
            done, runs = done + number, runs + 1
            for line in wrong:
                failures += 1
                print(f"{name}: {line}", flush=True)
    elapsed = time.monotonic() - began
    print(f"{name}: {done:,} in {runs:,} trials, {failures} failures, {elapsed:.0f} s", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())
