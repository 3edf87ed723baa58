"""Keeps weights and the trainer's numbers in fp32 if the calling program changed torch's default type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fp32_by_default() -> Iterator[None]:
    """Make fp32 torch's default type and restore the caller's on exit; for `with` and as a decorator."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
