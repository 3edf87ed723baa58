"""Elementwise and per-vector operations with few passes over memory.

On a CPU these take a small model nearly as much time as its matrix products. Each has a plain formula and a gradient with as
few passes. A compiler fuses the plain formula, so it is used under a compiler and without gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minigpt.contracts.ramp import Ramp


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in, fp32 at least: fp32 for bf16 and fp16; wider types stay."""
    return torch.promote_types(dtype, torch.float32)


def upcast(x: Tensor) -> Tensor:
    """Convert to fp32 at least, for sums, exponentials and quotients. A wider type stays."""
    return x.to(wide_dtype(x.dtype))


class Dropout(nn.Dropout):
    """Dropout: elements become zero at rate `p`, the others are divided by 1 - p (Srivastava et al. 2014).

    On a CPU each decision takes 16 bits of a 64-bit random word, which are drawn about seven times as fast as torch's. There
    p is rounded to 1/65,536, in the divisor too. Equal seeds give equal masks. In eval mode the input is returned.

    Args:
        p: The rate. With a ramp, the model sets `p` while it is trained (`GPT.set_progress`).
    """

    def __init__(self, p: float | Ramp):
        super().__init__(p.at(0.0) if isinstance(p, Ramp) else p)
        self.ramp = p if isinstance(p, Ramp) else None

    def forward(self, x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        dropped = round(self.p * _DECISIONS)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _DECISIONS // 2
        return x * kept.to(x.dtype).mul_(_DECISIONS / (_DECISIONS - dropped) if dropped < _DECISIONS else 0.0)


_DECISIONS = 1 << 16


def _is_plain() -> bool:
    """Whether to use the plain formula: under a compiler, or without gradients (fewest calls)."""
    return not torch.is_grad_enabled() or torch.compiler.is_compiling()


def rms_norm(x: Float[Tensor, "*axes width"], eps: float) -> Float[Tensor, "*axes width"]:
    """RMS norm x / sqrt(mean(x^2) + eps) over the last axis, the mean in fp32 or wider (arXiv:1910.07467)."""
    if _is_plain():
        return F.rms_norm(x, x.shape[-1:], eps=eps)
    return _RMSNorm.apply(x, eps)  # type: ignore[no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    """With y = x / r: dL/dx = (g - y mean(g y)) / r."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(upcast(x), dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        y = (x * inverse).to(x.dtype)
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        y, inverse = ctx.saved_tensors
        along = (upcast(g) * y).mean(-1, keepdim=True)
        return torch.addcmul(upcast(g), y, along, value=-1).mul_(inverse).to(g.dtype), None


def squared_relu(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """max(x, 0)^2 (So et al. 2021, arXiv:2109.08668)."""
    return F.relu(x).square() if _is_plain() else _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]


class _SquaredReLU(torch.autograd.Function):
    """dL/dx = 2 max(x, 0) g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (positive * g).mul_(2)


def rotate_pairs(
    x: Float[Tensor, "*axes time width"], cos: Float[Tensor, "time pairs"], sin: Float[Tensor, "time pairs"]
) -> Float[Tensor, "*axes time width"]:
    """Rotate pairs of coordinates, i with i + pairs, by angles of the given cosines and sines.

    Coordinates beyond the pairs stay. The sums are in fp32 at least, the result in the dtype of x.
    """
    if _is_plain():
        return _rotated(x, cos, sin)
    return _RotatePairs.apply(x, cos, sin)  # type: ignore[no-untyped-call]


class _RotatePairs(torch.autograd.Function):
    """The gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated_in_place(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated_in_place(g, cos, -sin), None, None


def _rotated_in_place(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pairs = cos.shape[-1]
    first, second = x[..., :pairs], x[..., pairs : 2 * pairs]
    out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, cos.dtype))
    torch.mul(first, cos, out=out[..., :pairs]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., pairs : 2 * pairs]).addcmul_(first, sin)
    out[..., 2 * pairs :] = x[..., 2 * pairs :]
    return out.to(x.dtype)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = 2 * cos.shape[-1]
    a, b = upcast(x[..., :width]).chunk(2, dim=-1)
    rotated = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
    return rotated if width == x.shape[-1] else torch.cat((rotated, x[..., width:]), dim=-1)
