"""What a token costs in decoding: from a state, and against computing the whole window again for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from minigpt.experiment import SamplingSection
from minigpt.lab.bench.machine import Machine, clock, peak_mib, this_machine
from minigpt.lab.bench.timing import Timing, measure
from minigpt.model import GPT
from minigpt.model.decoding import sample_ids

_LENGTHS = 9  # windows at which the slow way is timed; what is between them is interpolated
_WARMUP_TOKENS = 32


@dataclass(frozen=True)
class Window:
    """Computing one window again.

    Attributes:
        length: Its tokens.
        seconds: For the next token of each sequence.
    """

    length: int
    seconds: Timing


@dataclass(frozen=True)
class DecodingSpeed:
    """What was measured of decoding, in fp32, as `minigpt generate` decodes.

    Attributes:
        machine: Where.
        parameters: Of the model.
        batch: Sequences.
        tokens: Decoded in each sequence.
        whole: Seconds for all of them, as `minigpt generate` decodes: a single sequence reads ahead.
        one_by_one: The same without reading ahead, which gains more the more a text repeats itself.
        windows: The slow way at several lengths.
        recomputing: Seconds in which the slow way would decode them all: each token takes what its window takes, the last
            block_size tokens, interpolated between the lengths that were timed.
        peak_mib: The most memory of the process when decoding from the state was done; None where the system does not tell.
        imports_mib: The same before the model was built.
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
        """Of all sequences together."""
        return self.batch * self.tokens / self.whole.median

    @property
    def ratio(self) -> float:
        """How many times as fast as the slow way."""
        return self.recomputing / self.whole.median

    @property
    def ratio_one_by_one(self) -> float:
        """The same without reading ahead."""
        return self.recomputing / self.one_by_one.median

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
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
    """Decode from a prompt, reading ahead and one by one in turn, then time the slow way.

    Args:
        model: On the device.
        prompt: Ids that come before.
        temperature: 0 for greedy.
        tokens: To decode in each sequence; past block_size the context moves as it does in `minigpt generate`.
        batch: Sequences.
        repeats: Of all tokens, after a few tokens to warm up.
        device: From `prepare`.
        imports_mib: The most memory of the process before there was a model, from `peak_mib`.

    Raises:
        DivergedError: The model gives logits that are not finite.
    """

    def decode(tokens: int, read_ahead: bool) -> float:
        now = clock(device)
        start = now()
        sampling = SamplingSection(max_new_tokens=tokens, temperature=temperature)
        for _ in sample_ids(model, prompt, sampling, num_samples=batch, read_ahead=read_ahead):
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
        recomputing=_in_all(windows, tokens),
        peak_mib=peak,
        imports_mib=imports_mib,
    )


@torch.no_grad()
def next_by_recomputing(model: GPT, ids: Int[Tensor, "batch time"]) -> Int[Tensor, " batch"]:
    """The likeliest next ids after the last block_size of `ids`, without a state: the slow way."""
    hidden, _ = model.hidden(ids[:, -model.dims.block_size :])
    return model.logits(hidden[:, -1:])[:, -1].argmax(-1)


def _windows(model: GPT, longest: int, batch: int, repeats: int) -> tuple[Window, ...]:
    """The slow way at lengths spread evenly up to the longest."""
    device = model.embedding.weight.device
    windows = []
    for length in sorted({round(float(length)) for length in np.linspace(1, longest, _LENGTHS)}):
        ids = torch.zeros(batch, length, dtype=torch.long, device=device)

        def work(ids: Tensor = ids) -> Tensor:
            return next_by_recomputing(model, ids)

        windows.append(Window(length, measure(work, repeats=repeats, now=clock(device))))
    return tuple(windows)


def _in_all(windows: tuple[Window, ...], tokens: int) -> float:
    """Token t comes after t others; beyond the longest window every token takes what that takes."""
    medians = [window.seconds.median for window in windows]
    return float(np.interp(np.arange(1, tokens + 1), [window.length for window in windows], medians).sum())
