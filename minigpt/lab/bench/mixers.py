"""Speed and memory of token mixers: one layer, forward and backward, at several lengths.

Each mixer has its default parameters and no positions, d_model 384, 6 heads of 64. The batch is the same at every length,
so a mixer that is linear in time takes 4 times as long at 2048 as at 512. Every measurement has a process of its own: its
peak is the largest resident memory, less what was resident once everything was imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minigpt.errors import MinigptError, listing, nearest
from minigpt.lab.bench.timing import Timing, measure
from minigpt.system import process

# What is measured runs in child processes. torch is imported there only: a child's peak is never below its parent's
# memory at the fork, so the parent stays small.

_VOCAB = 256


@dataclass(frozen=True)
class Settings:
    """What all measurements share.

    Attributes:
        batch: Sequences.
        precision: `fp32` or `bf16` (autocast).
        repeats: Passes that count, after two to warm up.
        threads: Of torch; None leaves its choice.
    """

    batch: int = 4
    precision: str = "fp32"
    repeats: int = 5
    threads: int | None = None


@dataclass(frozen=True)
class MixerSpeed:
    """What was measured of a mixer at one length.

    Attributes:
        mixer: Its name.
        time: Tokens in a sequence.
        seconds: Of a forward and backward pass; None if it failed.
        tokens_per_second: Of the batch; None if it failed.
        peak_mib: Memory beyond that of the imports; None if it failed, or where the system does not tell.
        parameters: Of the layer; None if it failed.
        machine: Where, in a line; None if it failed.
        warning: That others used the machine meanwhile, in words; nothing where they did not.
        error: The last line of a process that failed.
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


def registered() -> list[str]:
    """Names of all mixers; found in a process of its own."""
    return list(_in_child("_names"))


def choose(names: Sequence[str] | None) -> list[str]:
    """Those that are asked for, or all.

    Raises:
        MinigptError: One is not registered.
    """
    known = registered()
    for name in names or ():
        if name not in known:
            raise MinigptError(f'unknown mixer "{name}"; known: {listing(known)}{nearest(name, known)}')
    return list(names or known)


def measure_mixer(name: str, time: int, settings: Settings) -> MixerSpeed:
    """Seconds and memory of one mixer at one length; what went wrong stands in `error`, so that others can be measured."""
    try:
        answer = _in_child("_measure", name, time, asdict(settings))
    except ChildFailed as failure:
        return MixerSpeed(name, time, error=str(failure))
    return MixerSpeed(name, time, **{**answer, "seconds": Timing(**answer["seconds"])})


class ChildFailed(Exception):
    """A measuring process ended without an answer; the message is its last line."""


def _in_child(function: str, *arguments: Any) -> Any:
    command = process.python("-m", __name__, json.dumps([function, *arguments]))
    done = subprocess.run(command, env=process.environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ChildFailed(lines[-1] if lines else f"ended with code {done.returncode} and no word (out of memory?)")
    return json.loads(done.stdout.splitlines()[-1])


def _names() -> list[str]:
    import minigpt.components  # noqa: F401 - importing it registers them
    from minigpt.registry import REGISTRY

    return [entry.name for entry in REGISTRY.entries("attention")]


def _measure(name: str, length: int, given: dict[str, Any]) -> dict[str, Any]:
    import torch

    import minigpt.components  # noqa: F401 - importing it registers them
    from minigpt.contracts import Component, Context, Dims
    from minigpt.lab.bench.machine import peak_mib, prepare, this_machine
    from minigpt.registry import REGISTRY
    from minigpt.training.other_processes import OtherProcesses, as_warning

    settings = Settings(**given)
    device = prepare("cpu", settings.threads)
    torch.manual_seed(0)
    baseline = peak_mib(device)
    dims = Dims(d_model=384, n_layers=1, n_heads=6, head_dim=64, block_size=length, vocab_size=_VOCAB, dropout=0.0)
    mixer = REGISTRY.resolve("attention", name).build(dims)
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
    return {
        "seconds": asdict(seconds),
        "tokens_per_second": settings.batch * length / seconds.median,
        "peak_mib": None if peak is None or baseline is None else peak - baseline,
        "parameters": sum(parameter.numel() for parameter in mixer.parameters()),
        "machine": str(this_machine(device)),
        "warning": as_warning(others.share()),
    }


_ANSWERS: dict[str, Callable[..., Any]] = {"_names": _names, "_measure": _measure}

if __name__ == "__main__":
    function, *arguments = json.loads(sys.argv[1])
    print(json.dumps(_ANSWERS[function](*arguments)))
