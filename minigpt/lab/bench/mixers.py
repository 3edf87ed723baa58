"""Measure speed and memory of token mixers: one layer, forward and backward, at several lengths.

Each mixer has default parameters, no positions, d_model 384 and 6 heads of size 64. The batch is the same at every length,
so a mixer with linear cost takes 4 times as long at 2048 tokens as at 512. Each measurement runs in a separate process. Its
peak memory is the largest resident memory, minus the resident memory after all imports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minigpt.errors import MinigptError, listing, nearest
from minigpt.lab.bench.timing import Timing, measure
from minigpt.system import child

# Only the child processes import torch: a child's peak is never below its parent's memory at the fork, so the parent must
# stay small.

_VOCAB = 256


@dataclass(frozen=True)
class Settings:
    """Settings that all measurements share.

    Attributes:
        batch: Number of sequences.
        precision: `fp32` or `bf16` (autocast).
        repeats: Number of measured passes, after a warm-up of two.
        threads: Number of torch's CPU threads; None keeps torch's choice.
    """

    batch: int = 4
    precision: str = "fp32"
    repeats: int = 5
    threads: int | None = None


@dataclass(frozen=True)
class MixerSpeed:
    """Measured speed and memory of a mixer at one length.

    Attributes:
        mixer: Name of the mixer.
        time: Tokens in a sequence.
        seconds: Time of a forward and backward pass; None if it failed.
        tokens_per_second: Speed for the whole batch; None if it failed.
        peak_mib: Peak memory without the imports; None if it failed or if the system does not report it.
        parameters: Number of parameters of the layer; None if it failed.
        machine: The machine, in one line; None if it failed.
        warning: A message if other processes used the machine meanwhile; else empty.
        error: The last line printed by a process that failed.
    """

    mixer: str
    time: int
    seconds: Timing | None = None
    tokens_per_second: float | None = None
    peak_mib: float | None = None
    parameters: int | None = None
    machine: str | None = None
    warning: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Measurement:
    """The request to one measuring process.

    Attributes:
        mixer: Name of the mixer.
        time: Tokens in a sequence.
        settings: The settings that all measurements share.
    """

    mixer: str
    time: int
    settings: Settings


def registered() -> list[str]:
    """Names of all registered mixers, read in a separate process.

    Raises:
        MinigptError: The process failed.
    """
    names = child.call(_names, "attention")
    if isinstance(names, child.Exit):
        raise MinigptError(_reason(names))
    return names


def choose(names: Sequence[str] | None) -> list[str]:
    """Check the requested names. Without names, return all mixers.

    Raises:
        MinigptError: A name is not registered.
    """
    known = registered()
    for name in names or ():
        if name not in known:
            raise MinigptError(f'unknown mixer "{name}"; known: {listing(known)}{nearest(name, known)}')
    return list(names or known)


def measure_mixer(name: str, time: int, settings: Settings) -> MixerSpeed:
    """Measure one mixer at one length. A failure is returned in `error`, so that the other mixers can be measured."""
    try:
        speed = child.call(_measure, Measurement(name, time, settings))
    except MinigptError as error:
        return MixerSpeed(name, time, error=str(error))
    return MixerSpeed(name, time, error=_reason(speed)) if isinstance(speed, child.Exit) else speed


def _reason(ending: child.Exit) -> str:
    return ending.last_line or f"ended with code {ending.code} without a message (out of memory?)"


def _names(family: str) -> list[str]:
    import minigpt.components  # noqa: F401 - the import registers the mixers
    from minigpt.registry import REGISTRY

    return [entry.name for entry in REGISTRY.entries(family)]


def _measure(measurement: Measurement) -> MixerSpeed:
    import torch

    import minigpt.components  # noqa: F401 - the import registers the mixers
    from minigpt.contracts import Component, Context, Dims
    from minigpt.lab.bench.machine import peak_mib, prepare, this_machine
    from minigpt.registry import REGISTRY
    from minigpt.training.other_processes import OtherProcesses, as_warning

    settings, length = measurement.settings, measurement.time
    device = prepare("cpu", settings.threads)
    torch.manual_seed(0)
    baseline = peak_mib(device)
    dims = Dims(d_model=384, n_layers=1, n_heads=6, head_dim=64, block_size=length, vocab_size=_VOCAB, dropout=0.0)
    mixer = REGISTRY.resolve("attention", measurement.mixer).build(dims)
    for module in mixer.modules():
        if isinstance(module, Component):
            module.init_weights()
    position = REGISTRY.resolve("position", "none").build(dims)
    x = torch.randn(settings.batch, length, dims.d_model, requires_grad=True)
    tokens = torch.randint(0, _VOCAB, (settings.batch, length))

    def work() -> None:
        mixer.zero_grad()
        x.grad = None
        ctx = Context(torch.arange(length), position, tokens)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            y = mixer(x, ctx)
        torch.autograd.backward(y.float().square().mean() + sum(ctx.losses))

    others = OtherProcesses()
    seconds = measure(work, repeats=settings.repeats, warmup=2)
    peak = peak_mib(device)
    return MixerSpeed(
        mixer=measurement.mixer,
        time=length,
        seconds=seconds,
        tokens_per_second=settings.batch * length / seconds.median,
        peak_mib=None if peak is None or baseline is None else peak - baseline,
        parameters=sum(parameter.numel() for parameter in mixer.parameters()),
        machine=str(this_machine(device)),
        warning=as_warning(others.share()),
    )
