"""Weights and the trainer's numbers are fp32, whatever torch's default is in the calling program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fp32_by_default() -> Iterator[None]:
    """Make fp32 torch's default floating-point type, and restore the caller's on exit; for `with` and as a decorator."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
