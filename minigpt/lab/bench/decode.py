"""Time decoding with a state, and compare it with computing the whole window again for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from minigpt.lab.bench.machine import Machine, clock, peak_mib, this_machine
from minigpt.lab.bench.timing import Timing, measure
from minigpt.model import GPT
from minigpt.model.decoding import sample_ids
from minigpt.registry import REGISTRY

_LENGTHS = 9  # lengths at which computing the whole window is timed; other lengths are interpolated
_WARMUP_TOKENS = 32


@dataclass(frozen=True)
class Window:
    """The time of one pass over a window.

    Attributes:
        length: Tokens in the window.
        seconds: Time to compute the next token of each sequence.
    """

    length: int
    seconds: Timing


@dataclass(frozen=True)
class DecodingSpeed:
    """Measured speed of decoding, in fp32, with the code of `minigpt generate`.

    Attributes:
        machine: The machine that was measured.
        parameters: Number of parameters of the model.
        batch: Number of sequences.
        tokens: Tokens decoded in each sequence.
        whole: Seconds to decode all tokens as `minigpt generate` does: a single sequence reads ahead.
        one_by_one: Seconds without reading ahead. Reading ahead gains more if a text repeats itself more.
        windows: Seconds to compute the whole window, at several lengths.
        recomputing: Seconds to decode all tokens by computing the whole window for each, estimated. A token takes the time
            of its window (at most block_size tokens), interpolated between the measured lengths.
        peak_mib: Peak memory of the process after decoding with the state; None if the system does not report it.
        imports_mib: Peak memory of the process before the model was built.
    """

    machine: Machine
    parameters: int
    batch: int
    tokens: int
    whole: Timing
    one_by_one: Timing
    windows: tuple[Window, ...]
    recomputing: float
    peak_mib: float | None
    imports_mib: float | None

    @property
    def tokens_per_second(self) -> float:
        """Decoded tokens per second, of all sequences together."""
        return self.batch * self.tokens / self.whole.median

    @property
    def ratio(self) -> float:
        """How many times faster decoding is than computing the whole window for each token."""
        return self.recomputing / self.whole.median

    @property
    def ratio_one_by_one(self) -> float:
        """How many times faster decoding without reading ahead is."""
        return self.recomputing / self.one_by_one.median

    def to_json(self) -> dict[str, Any]:
        """All numbers as JSON."""
        return {
            **asdict(self),
            "tokens_per_second": self.tokens_per_second,
            "ratio": self.ratio,
            "ratio_one_by_one": self.ratio_one_by_one,
        }


def measure_decoding(
    model: GPT,
    prompt: Sequence[int],
    *,
    temperature: float,
    tokens: int,
    batch: int,
    repeats: int,
    device: torch.device,
    imports_mib: float | None,
) -> DecodingSpeed:
    """Time decoding from a prompt, with and without reading ahead in turn, then computing the whole window.

    Args:
        model: The model, on the device.
        prompt: Token ids of the prompt.
        temperature: 0 for greedy.
        tokens: Tokens to decode in each sequence; past block_size the context moves as in `minigpt generate`.
        batch: Number of sequences.
        repeats: Number of measurements, each of all tokens, after a few tokens of warm-up.
        device: The device from `prepare`.
        imports_mib: Peak memory of the process before the model was built, from `peak_mib`.

    Raises:
        DivergedError: The model's logits are not finite.
    """
    sampler = REGISTRY.resolve("sampler", {"name": "filtered", "temperature": temperature}).build()

    def decode(tokens: int, read_ahead: bool) -> float:
        now = clock(device)
        start = now()
        for _ in sample_ids(model, prompt, sampler, tokens, num_samples=batch, read_ahead=read_ahead):
            pass
        return now() - start

    decode(min(tokens, _WARMUP_TOKENS), True)
    pairs = [(decode(tokens, True), decode(tokens, False)) for _ in range(repeats)]
    ahead, one_by_one = zip(*pairs, strict=True)
    peak = peak_mib(device)
    windows = _windows(model, min(tokens, model.dims.block_size), batch, repeats)
    return DecodingSpeed(
        machine=this_machine(device),
        parameters=model.n_parameters(),
        batch=batch,
        tokens=tokens,
        whole=Timing.of(ahead),
        one_by_one=Timing.of(one_by_one),
        windows=windows,
        recomputing=_total_seconds(windows, tokens),
        peak_mib=peak,
        imports_mib=imports_mib,
    )


@torch.no_grad()
def next_by_recomputing(model: GPT, ids: Int[Tensor, "batch time"]) -> Int[Tensor, " batch"]:
    """The most likely next ids after the last block_size of `ids`, computed without a state."""
    hidden, _ = model.hidden(ids[:, -model.dims.block_size :])
    return model.logits(hidden[:, -1:])[:, -1].argmax(-1)


def _windows(model: GPT, longest: int, batch: int, repeats: int) -> tuple[Window, ...]:
    """Time the whole window at lengths spread evenly from 1 to the longest."""
    device = model.device
    windows = []
    for length in sorted({round(float(length)) for length in np.linspace(1, longest, _LENGTHS)}):
        ids = torch.zeros(batch, length, dtype=torch.long, device=device)

        def work(ids: Tensor = ids) -> Tensor:
            return next_by_recomputing(model, ids)

        windows.append(Window(length, measure(work, repeats=repeats, now=clock(device))))
    return tuple(windows)


def _total_seconds(windows: tuple[Window, ...], tokens: int) -> float:
    """Seconds of all tokens: token t has a window of t tokens, and from the longest window on the time is constant."""
    medians = [window.seconds.median for window in windows]
    return float(np.interp(np.arange(1, tokens + 1), [window.length for window in windows], medians).sum())
