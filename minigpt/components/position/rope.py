"""Rotary positions, full or partial, and methods to extend them to longer contexts."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from minigpt.contracts import Dims, Position
from minigpt.kernels.fused import rotate_pairs, wide_dtype
from minigpt.registry import register

Factor = Annotated[float, Field(ge=1)]


class _Scaling(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def frequencies(self, own: Tensor, base: float) -> Tensor:
        """The frequencies [W/2] to use in place of `own`, for a rotated width W."""
        raise NotImplementedError

    def temperature(self) -> float:
        """The factor on queries and on keys."""
        return 1.0


class Linear(_Scaling):
    """Positions are divided by the factor (Chen et al. 2023, arXiv:2306.15595)."""

    kind: Literal["linear"]
    factor: Factor

    def frequencies(self, own: Tensor, base: float) -> Tensor:
        """All frequencies divided by the factor."""
        return own / self.factor


class NTK(_Scaling):
    """A larger base: slow frequencies stretch, fast ones stay (bloc97 2023; arXiv:2309.00071, section 3.1)."""

    kind: Literal["ntk"]
    factor: Factor

    def frequencies(self, own: Tensor, base: float) -> Tensor:
        """The slowest frequency divided by the factor, the fastest unchanged."""
        half = len(own)
        if half == 1:
            return own
        places = torch.arange(half, device=own.device, dtype=own.dtype)
        return own * self.factor ** (-places / (half - 1))


class YaRN(_Scaling):
    """Slow frequencies are interpolated, fast ones kept, scores sharpened (Peng et al. 2023, arXiv:2309.00071).

    The ramp between them starts and ends at whole indices, as in the paper's code. With `truncate` false it follows the
    formula, as in gpt-oss (arXiv:2508.10925). `attention_factor` multiplies rotated queries and keys; null for the paper's
    0.1 ln(factor) + 1. DeepSeek-V3 uses 1, and sharpens whole scores (`score_scale` of mla).
    """

    kind: Literal["yarn"]
    factor: Factor
    original_block_size: Annotated[int, Field(gt=0)]
    beta_fast: Annotated[float, Field(gt=0)] = 32.0
    beta_slow: Annotated[float, Field(gt=0)] = 1.0
    truncate: bool = True
    attention_factor: Annotated[float, Field(gt=0)] | None = None

    def frequencies(self, own: Tensor, base: float) -> Tensor:
        """A ramp from frequencies with beta_fast rotations in the original context to those with beta_slow rotations."""
        width = 2 * len(own)

        def place(turns: float) -> float:
            return width * math.log(self.original_block_size / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = place(self.beta_fast), place(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        places = torch.arange(len(own), device=own.device, dtype=own.dtype)
        ramp = ((places - low) / max(high - low, 1e-3)).clamp(0, 1)
        return own / self.factor * ramp + own * (1 - ramp)

    def temperature(self) -> float:
        """Equation 22, if no value is given."""
        return 0.1 * math.log(self.factor) + 1 if self.attention_factor is None else self.attention_factor


class Llama3(_Scaling):
    """Wavelengths beyond the original context are stretched, short ones kept, smooth between (arXiv:2407.21783)."""

    kind: Literal["llama3"]
    factor: Factor
    original_block_size: Annotated[int, Field(gt=0)]
    low_freq_factor: Annotated[float, Field(gt=0)] = 1.0
    high_freq_factor: Annotated[float, Field(gt=0)] = 4.0

    def frequencies(self, own: Tensor, base: float) -> Tensor:
        """The scaling depends on the number of wavelengths in the original context."""
        fit = self.original_block_size * own / (2 * math.pi)
        smooth = ((fit - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (1 - smooth) * own / self.factor + smooth * own


Scaling = Annotated[Linear | NTK | YaRN | Llama3, Field(discriminator="kind")]


@register("position", "rope")
class RotaryPosition(Position):
    """Queries and keys are rotated by an angle that grows with position (RoFormer: Su et al. 2021, arXiv:2104.09864).

    The score of a query at m and a key at n then depends only on m - n. Of the first W = fraction K coordinates, i is
    paired with i + W/2 (the layout of GPT-NeoX and Llama) and rotated by the angle p * base^(-2i/W).

    Args:
        base: Wavelengths run from 2 pi to 2 pi base.
        fraction: Share of each head's width that is rotated (GPT-NeoX: 0.25, arXiv:2204.06745).
        scaling: How to extend to longer contexts: {"kind": "linear" | "ntk" | "yarn" | "llama3", "factor": ...}; null for
            no scaling.
    """

    relative = True

    def __init__(
        self,
        dims: Dims,
        *,
        base: Annotated[float, Field(gt=1)] = 10_000.0,
        fraction: Annotated[float, Field(gt=0, le=1)] = 1.0,
        scaling: Scaling | None = None,
    ):
        super().__init__()
        width = round(fraction * dims.head_dim)
        if width % 2 or not width:
            raise ValueError(
                f"rotation needs pairs of coordinates: head_dim {dims.head_dim} times fraction {fraction:g} must be even"
            )
        if isinstance(scaling, Llama3) and scaling.low_freq_factor >= scaling.high_freq_factor:
            raise ValueError("scaling.low_freq_factor must be below scaling.high_freq_factor")
        self.base, self.fraction, self.scaling = base, fraction, scaling
        self.keeps_norm = scaling is None or scaling.temperature() == 1
        self._kept: tuple[Tensor, int, torch.dtype, tuple[Tensor, Tensor]] | None = None

    def rotate(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch kv_heads time head_dim"],
        positions: Int[Tensor, " time"],
    ) -> tuple[Float[Tensor, "batch heads time head_dim"], Float[Tensor, "batch kv_heads time head_dim"]]:
        cos, sin = self._cos_and_sin(positions, q.shape[-1], wide_dtype(q.dtype))
        return rotate_pairs(q, cos, sin), rotate_pairs(k, cos, sin)

    def _cos_and_sin(self, positions: Int[Tensor, " time"], head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[T, W/2] each, cached because the layers of a pass share `positions`."""
        if torch.compiler.is_compiling():
            return self._computed(positions, head_dim, dtype)
        kept = self._kept
        if kept is None or kept[0] is not positions or kept[1:3] != (head_dim, dtype):
            kept = self._kept = (positions, head_dim, dtype, self._computed(positions, head_dim, dtype))
        return kept[3]

    def _computed(self, positions: Int[Tensor, " time"], head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        width = max(2, 2 * round(self.fraction * head_dim / 2))  # a mixer may rotate heads of another width (mla)
        exponents = torch.arange(0, width, 2, device=positions.device, dtype=dtype) / width
        frequencies = self.base**-exponents
        temperature = 1.0
        if self.scaling is not None:
            frequencies = self.scaling.frequencies(frequencies, self.base)
            temperature = self.scaling.temperature()
        angles = positions[:, None].to(dtype) * frequencies
        return temperature * angles.cos(), temperature * angles.sin()
