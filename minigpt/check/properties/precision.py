"""What bf16 may change: the rounding of outputs, but no more at late positions than at early ones."""

from __future__ import annotations

import torch
from torch import Tensor

from minigpt.check.agreement import run
from minigpt.check.probe import Subject
from minigpt.check.property import Violation

FAR = 520
"""A length beyond 256 and 512: bf16 counts only to 256, then in steps of two, and beyond 512 in steps of four."""


def check_near_fp32(subject: Subject, x: Tensor, tokens: Tensor) -> None:
    """Check that the error of bf16 does not grow with the position, and that a state may be bf16.

    Raises:
        Violation: Outputs are far from those in fp32.
    """
    exact = run(subject, x, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        errors = _errors(run(subject, x, tokens), exact, x)
        early, late = float(errors[:256].mean()), float(errors[256:].mean())
        if early > 0.5 or late > 0.02 + 3 * early:
            raise Violation(
                f"in bf16, outputs differ from fp32 by {early:.2g} of their size, and from position 256 on by {late:.2g}",
                at=256,
                size=late,
                cause="are positions, counts or long sums in bf16? it has no odd number above 256",
            )
        if subject.new_state(1, FAR, torch.float32).nbytes == subject.new_state(1, FAR, torch.bfloat16).nbytes:
            return
        of_state = {dtype: _decoded_errors(subject, x, tokens, exact, dtype) for dtype in (torch.float32, torch.bfloat16)}
    if of_state[torch.bfloat16] > 0.04 + 3 * of_state[torch.float32]:
        raise Violation(
            f"from a bf16 state, outputs at position {_DECODED[1]} differ by {of_state[torch.bfloat16]:.2g} of their size",
            at=_DECODED[1],
            size=of_state[torch.bfloat16],
            cause="does the state count tokens, or sum over them, in the requested dtype? keep sums and counts in fp32",
        )


_DECODED = (240, 320)
"""From where to where single tokens are decoded: across 256."""


def _decoded_errors(subject: Subject, x: Tensor, tokens: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    """Return the error of the last of many decoded tokens with a state of this type."""
    start, end = _DECODED
    state = subject.new_state(1, FAR, dtype)
    try:
        run(subject, x[:, :start], tokens[:, :start], state)
        steps = [run(subject, x[:, [place]], tokens[:, [place]], state) for place in range(start, end)]
    except RuntimeError:  # torch refuses some mixes of fp32 and bf16: a limitation, not a wrong output
        return 0.0
    return float(_errors(torch.cat(steps, 1), exact[:, start:end], x[:, start:end])[-20:].mean())


def _errors(y: Tensor, exact: Tensor, x: Tensor) -> Tensor:
    """Return the error at each position of [1, T, ...], relative to what the subject adds to its input."""
    added = exact - x if exact.shape == x.shape else exact
    size = added.flatten(2).norm(dim=-1)[0]
    return (y.float() - exact).flatten(2).norm(dim=-1)[0] / (size + size.mean() + 1e-6)
