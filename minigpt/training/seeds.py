"""Seeds of random numbers, which depend only on the experiment's seed and the number of the update."""

from __future__ import annotations

import numpy as np
import torch


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the CPU's random numbers and the device's.

    `torch.manual_seed` would seed every kind of device. For an absent device it records the call stack, and its first call
    imports torch's compiler, which takes a second.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def stream_seed(seed: int, step: int, stream: int) -> int:
    """An independent seed for each (experiment seed, step, purpose)."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0])
