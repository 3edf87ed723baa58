"""What suits the machine: device, precision, and how much goes through the model at once."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from minigpt.contracts import MixedPrecisionOptimizer
from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.model import GPT
from minigpt.run.recorded import MAX_THREADS
from minigpt.training.interleaved import measure_ratio

_WORTH_IT = 1.25  # bf16 costs accuracy, so it must be faster by a quarter
_PRECISION_WIDTH, _PRECISION_AT_MOST_SECONDS = 0.1, 0.3
_CACHED_TOKENS = 4096


def choose_device(wish: str = "auto") -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU.

    Raises:
        MinigptError: The wish is none of auto, cpu, cuda, mps, or is not there.
    """
    present = [name for name in ("cuda", "mps", "cpu") if is_present(name)]
    if wish == "auto":
        return torch.device(present[0])
    if wish not in present:
        there = ", ".join(present)
        raise MinigptError(f'device "{wish}" is not available here; allowed: auto, {there}')
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
    """Compute with so many threads of the CPU.

    Raises:
        MinigptError: They are fewer than one, or more than any machine has.
    """
    if not 0 < number <= MAX_THREADS:
        raise MinigptError(f"threads: found {number}; allowed: 1 to {MAX_THREADS}")
    torch.set_num_threads(number)


def choose_precision(wish: str, device: torch.device) -> str:
    """`fp32` or `bf16`; `auto` times a matrix product of a small model's size in both, in turn, once in a process."""
    return _faster_precision(device, torch.get_num_threads()) if wish == "auto" else wish


@functools.cache
def _faster_precision(device: torch.device, threads: int) -> str:  # with other threads it is measured anew
    fp32, bf16 = (_product(dtype, device) for dtype in (torch.float32, torch.bfloat16))
    ratio = measure_ratio(bf16, fp32, width=_PRECISION_WIDTH, at_most=_PRECISION_AT_MOST_SECONDS)
    return "bf16" if ratio.value >= _WORTH_IT else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in bf16 where the precision says so; weights and optimizer stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def build_optimizer(experiment: Experiment, model: GPT, precision: str) -> torch.optim.Optimizer:
    """The experiment's optimizer over the model's parameters; products of its own have the training's precision."""
    optimizer = experiment.training.optimizer.build().build(list(model.named_roles()))
    if isinstance(optimizer, MixedPrecisionOptimizer):
        optimizer.precision = precision
    return optimizer


def micro_batch_size(experiment: Experiment, device: torch.device) -> int:
    """Sequences that go through the model at once.

    On a CPU what passes between the layers then stays in its cache, and its memory is used again rather than asked for anew:
    at the documented size an update takes 0.6 of the time that it takes in one piece.
    """
    if experiment.training.micro_batch_size is not None:
        return experiment.training.micro_batch_size
    cached = max(1, _CACHED_TOKENS // experiment.model.block_size)
    return cached if device.type == "cpu" else experiment.training.batch_size


def _product(dtype: torch.dtype, device: torch.device) -> Callable[[], float]:
    """Multiplies 512 x 384 by 384 x 1,536 and returns the seconds."""
    a, b = (torch.ones(shape, dtype=dtype, device=device) for shape in ((512, 384), (384, 1536)))

    def multiply() -> float:
        start = time.perf_counter()
        product = a @ b
        product[0, 0].item()  # waits for the device
        return time.perf_counter() - start

    return multiply
