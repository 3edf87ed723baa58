"""Settings that depend on the machine: device, precision and threads."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from minigpt.contracts import MixedPrecisionOptimizer
from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.model import GPT, optimizer_of
from minigpt.run.recorded import MAX_THREADS
from minigpt.training.interleaved import measure_ratio

_LEAST_SPEEDUP = 1.25  # bf16 costs accuracy, so it must be 25 % faster
_PRECISION_WIDTH, _PRECISION_AT_MOST_SECONDS = 0.1, 0.3


def choose_device(wish: str = "auto") -> torch.device:
    """The torch device for a `--device` value; `auto` prefers CUDA, then MPS, then the CPU.

    Raises:
        MinigptError: The value is none of auto, cpu, cuda, mps, or this machine has no such device.
    """
    present = [name for name in ("cuda", "mps", "cpu") if is_present(name)]
    if wish == "auto":
        return torch.device(present[0])
    if wish not in present:
        raise MinigptError(f'device "{wish}" is not available here; allowed: auto, {", ".join(present)}')
    return torch.device(wish)


def is_present(device: str) -> bool:
    """Whether this machine has such a device."""
    match device:
        case "cuda":
            return torch.cuda.is_available()
        case "mps":
            return torch.backends.mps.is_available()
    return device == "cpu"


def use_threads(number: int) -> None:
    """Set the number of CPU threads that torch uses.

    Raises:
        MinigptError: The number is less than 1, or more than any machine has.
    """
    if not 0 < number <= MAX_THREADS:
        raise MinigptError(f"threads: found {number}; allowed: 1 to {MAX_THREADS}")
    torch.set_num_threads(number)


def choose_precision(wish: str, device: torch.device) -> str:
    """`fp32` or `bf16`; `auto` times a matrix product of a small model's size in both, once per process."""
    return _faster_precision(device, torch.get_num_threads()) if wish == "auto" else wish


@functools.cache
def _faster_precision(device: torch.device, threads: int) -> str:  # `threads` is part of the cache key
    fp32, bf16 = (_product(dtype, device) for dtype in (torch.float32, torch.bfloat16))
    ratio = measure_ratio(bf16, fp32, width=_PRECISION_WIDTH, at_most=_PRECISION_AT_MOST_SECONDS)
    return "bf16" if ratio.value >= _LEAST_SPEEDUP else "fp32"


def build_optimizer(experiment: Experiment, model: GPT, precision: str) -> torch.optim.Optimizer:
    """The experiment's optimizer over the model's parameters.

    Its own matrix products use the training precision.

    Raises:
        ExperimentError: The optimizer refuses these parameters with a ValueError.
    """
    optimizer = optimizer_of(experiment.training.optimizer, model)
    if isinstance(optimizer, MixedPrecisionOptimizer):
        optimizer.precision = precision
    return optimizer


def _product(dtype: torch.dtype, device: torch.device) -> Callable[[], float]:
    """A function that multiplies 512 x 384 by 384 x 1,536 matrices and returns the seconds."""
    a, b = (torch.ones(shape, dtype=dtype, device=device) for shape in ((512, 384), (384, 1536)))

    def multiply() -> float:
        start = time.perf_counter()
        product = a @ b
        product[0, 0].item()  # waits for the device
        return time.perf_counter() - start

    return multiply
