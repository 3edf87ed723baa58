"""The measured machine, a clock that waits for the device, and the peak memory."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import minigpt
from minigpt.run.provenance import processor
from minigpt.training.machine import choose_device, use_threads


@dataclass(frozen=True)
class Machine:
    """Hardware and software of a measurement.

    Attributes:
        processor: Name of the processor model.
        cores: Number of processor cores.
        system: Operating system and version.
        device: `cpu`, `mps`, or the name of the CUDA device.
        threads: Number of torch's CPU threads.
        python: Version of Python.
        torch: Version of torch.
        minigpt: Version of minigpt.
    """

    processor: str
    cores: int | None
    system: str
    device: str
    threads: int
    python: str
    torch: str
    minigpt: str

    def __str__(self) -> str:
        where = self.processor if self.device == "cpu" else f"{self.device} ({self.processor})"
        threads = f"{self.threads} thread" + ("" if self.threads == 1 else "s")
        return f"{where}, {threads} on {self.cores} cores, torch {self.torch}, minigpt {self.minigpt}"


def this_machine(device: torch.device) -> Machine:
    """The machine that runs this process."""
    return Machine(
        processor=processor(),
        cores=os.cpu_count(),
        system=platform.platform(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        minigpt=minigpt.__version__,
    )


def prepare(device: str, threads: int | None) -> torch.device:
    """Set torch's threads (None keeps torch's choice) and choose the device, as `minigpt run` does.

    Raises:
        MinigptError: The device is not available, or the number of threads is impossible.
    """
    if threads is not None:
        use_threads(threads)
    return choose_device(device)


def clock(device: torch.device) -> Callable[[], float]:
    """A clock in seconds. Before each reading it waits until the device has finished its work."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    return now


def peak_mib(device: torch.device) -> float | None:
    """Peak memory so far in MiB: CUDA's allocated memory, else resident memory; None if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, else in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
