"""Keeps weights and the trainer's numbers what they are, whatever the calling program has set in torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fp32_by_default() -> Iterator[None]:
    """Make fp32 torch's default type, without the caller's autocast; restore both on exit. For `with` and as a decorator."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)
