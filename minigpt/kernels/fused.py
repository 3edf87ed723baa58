"""Operations on each element or vector in few passes over memory.

On a CPU these cost a small model nearly as much as its matrix products. Each computes what its plain formula says, and its
gradient in as few passes. A compiler fuses the plain formula by itself, so under one, and without gradients, that is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 at least: fp32 for bf16 and fp16, and what is wider as it is."""
    return torch.promote_types(dtype, torch.float32)


def upcast(x: Tensor) -> Tensor:
    """In fp32 at least, whatever the model's precision: for sums, exponentials and quotients. Nothing is narrowed."""
    return x.to(wide_dtype(x.dtype))


class Dropout(nn.Dropout):
    """Each element is zero at the rate `p`, the others are divided by 1 - p (Srivastava et al. 2014); nothing in eval mode.

    On a CPU the decisions are 16 bits of a random word each, four a word, which is some seven times as fast to draw as
    torch's; the rate is p to the nearest 1/65,536, and what is divided by follows it. Equal seeds give equal masks.
    """

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
    """Whether the plain formula is as good: without gradients it is what takes the fewest steps to call."""
    return not torch.is_grad_enabled() or torch.compiler.is_compiling()


def rms_norm(x: Float[Tensor, "*axes width"], eps: float) -> Float[Tensor, "*axes width"]:
    """X / sqrt(mean(x^2) + eps) over the last axis, in the dtype of x, the mean in fp32 at least (arXiv:1910.07467)."""
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


def turn(
    x: Float[Tensor, "*axes time width"], cos: Float[Tensor, "time pairs"], sin: Float[Tensor, "time pairs"]
) -> Float[Tensor, "*axes time width"]:
    """Turn the first coordinates of each vector, i paired with i + pairs, by the angles whose cosines and sines are given.

    The sums are in fp32 at least, the result in the dtype of x.
    """
    if _is_plain():
        return _turned(x, cos, sin)
    return _Turn.apply(x, cos, sin)  # type: ignore[no-untyped-call]


class _Turn(torch.autograd.Function):
    """The gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned_in_place(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned_in_place(g, cos, -sin), None, None


def _turned_in_place(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pairs = cos.shape[-1]
    first, second = x[..., :pairs], x[..., pairs : 2 * pairs]
    out = torch.empty_like(x, dtype=torch.promote_types(x.dtype, cos.dtype))
    torch.mul(first, cos, out=out[..., :pairs]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., pairs : 2 * pairs]).addcmul_(first, sin)
    out[..., 2 * pairs :] = x[..., 2 * pairs :]
    return out.to(x.dtype)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = 2 * cos.shape[-1]
    a, b = upcast(x[..., :width]).chunk(2, dim=-1)
    turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), dim=-1)
