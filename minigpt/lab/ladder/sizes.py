"""The sizes of a ladder: how width, depth, training and learning rate grow together."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from minigpt.data import tokens_trained
from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.lab.statistics import FEWEST_SIZES

Rate = Literal["mup", "width", "same"]


@dataclass(frozen=True)
class Growth:
    """How experiments grow from size to size.

    Attributes:
        sizes: `96x3`, the base's d_model and n_layers; or factors of the base's own width and depth, such as `0.75`.
        rate: The learning rate at each size. `mup` gives all the init mup with the file's own width as base_width, so that
            the file's rate holds at all widths; an init that holds at all widths is kept. `width` divides the file's rate
            by the width's ratio to the file's. `same` keeps it.
        tokens_per_parameter: Training tokens of the base for each of its parameters; None for those of the base's file,
            times the ratio of the parameters to the file's, to the power of `exponent`.
        exponent: See `tokens_per_parameter`; 1 for tokens in proportion to parameters.
    """

    sizes: tuple[str, ...] = ("0.5", "0.75", "1")
    rate: Rate = "mup"
    tokens_per_parameter: float | None = None
    exponent: float = 1.0


@dataclass(frozen=True)
class Size:
    """The base's width and depth at one size."""

    d_model: int
    n_layers: int

    @property
    def name(self) -> str:
        """For example `96x3`."""
        return f"{self.d_model}x{self.n_layers}"


def sizes_of(growth: Growth, base: Experiment) -> list[Size]:
    """The sizes in ascending order.

    Raises:
        MinigptError: A size cannot be read, occurs twice, is larger in width and smaller in depth than another, or there
            are too few.
    """
    sizes = sorted({_size(text.strip(), base) for text in growth.sizes}, key=lambda size: (size.d_model, size.n_layers))
    names = ", ".join(size.name for size in sizes)
    if len(sizes) < len(growth.sizes):
        raise MinigptError(f"--sizes: {','.join(growth.sizes)} are {names}; name each size once, or factors further apart")
    if len(sizes) < FEWEST_SIZES:
        raise MinigptError(f"--sizes: found {names}; a curve needs at least {FEWEST_SIZES} sizes, such as 64x2,96x3,128x4")
    if [size.n_layers for size in sizes] != sorted(size.n_layers for size in sizes):
        raise MinigptError(f"--sizes: found {names}; a wider size must not have fewer layers, so that all grow in one order")
    return sizes


def _size(text: str, base: Experiment) -> Size:
    model = base.model
    if match := re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,3})", text):
        return Size(int(match[1]), int(match[2]))
    if re.fullmatch(r"\d{1,4}(\.\d{1,6})?", text) and float(text) > 0:
        factor, head = float(text), _head_dim(base)
        unit = head if model.d_model % head == 0 else 2
        return Size(max(1, round(factor * model.d_model / unit)) * unit, max(1, round(factor * model.n_layers)))
    raise MinigptError(
        f'--sizes: found "{text}"; allowed: WIDTHxLAYERS, such as 64x2,96x3,128x4, or factors of the base\'s own size, such '
        "as 0.5,0.75,1"
    )


def _head_dim(experiment: Experiment) -> int:
    return experiment.model.head_dim or experiment.model.d_model // experiment.model.n_heads


def resized(own: Experiment, base: Experiment, size: Size) -> tuple[str, ...]:
    """Settings that give an experiment a size: its own width and depth, times the ratios of the base's.

    A head keeps its width, and the number of heads follows; where it does not divide d_model, the nearest divisor is used.
    """
    model = own.model
    width = max(1, round(model.d_model * size.d_model / base.model.d_model))
    layers = max(1, round(model.n_layers * size.n_layers / base.model.n_layers))
    wanted = width / _head_dim(own)
    if model.head_dim is not None:
        heads = max(1, round(model.n_heads * width / model.d_model))
    else:
        divisors = [number for number in range(1, width + 1) if width % number == 0]
        even = [number for number in divisors if width // number % 2 == 0] or divisors  # rotary positions need pairs
        heads = min(even, key=lambda number: abs(math.log(number / wanted)))
    return f"model.d_model={width}", f"model.n_heads={heads}", f"model.n_layers={layers}"


def learning_rate(own: Experiment, base: Experiment, size: Size, rate: Rate) -> tuple[str, ...]:
    """Settings that adapt an experiment's learning rate to a size.

    Raises:
        MinigptError: `mup` would replace an init that was chosen, or does not suit the optimizer.
    """
    ratio = size.d_model / base.model.d_model
    if rate == "width":
        given = own.training.optimizer.params.get("learning_rate")
        if not isinstance(given, float | int):
            name = own.training.optimizer.name
            raise MinigptError(f"--rate width: {own.name} has no learning_rate in {name}; choose --rate same")
        return (f"training.optimizer.learning_rate={given / ratio!r}",) if ratio != 1 else ()
    init, optimizer = own.model.init, own.training.optimizer
    if rate == "same" or "width" in init.cls.transfers:
        return ()
    if init.name != "gpt2":
        raise MinigptError(f"--rate mup would replace model.init of {own.name}, {init.name}; choose --rate width or same")
    if not optimizer.build().adaptive:
        raise MinigptError(
            f"--rate mup is for optimizers as Adam is, and {own.name} has {optimizer.name}; choose --rate width or same"
        )
    chosen = {"name": "mup", "base_width": own.model.d_model, "base_head_dim": _head_dim(own), "std": init.params["std"]}
    return (f"model.init={json.dumps(chosen)}",)


def growth_of_updates(growth: Growth, base: Experiment, parameters: Sequence[int], own: int) -> list[float]:
    """The number of updates at each size, as a factor of the file's own.

    Args:
        growth: The rule.
        base: The base as its file has it.
        parameters: Its number of parameters at each size.
        own: Its number of parameters as its file has it.
    """
    if growth.tokens_per_parameter is not None:
        return [growth.tokens_per_parameter * number / tokens_trained(base) for number in parameters]
    return [float((number / own) ** growth.exponent) for number in parameters]


def updates(own: Experiment, factor: float) -> str:
    """The setting that multiplies an experiment's updates by a factor."""
    return f"training.max_iters={max(1, round(own.training.max_iters * factor))}"
