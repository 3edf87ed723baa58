"""Floating-point operations of an update, counted while the model computes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minigpt.contracts import Batch
from minigpt.model import GPT


@dataclass(frozen=True)
class Flops:
    """Operations of a forward and backward pass; a multiplication and an addition are two.

    Attributes:
        needed: With only the attention scores that a query can see: about half for plain causal attention.
        square: With all scores, as in the usual count 6 N + 12 L D T per token (PaLM, arXiv:2204.02311; nanoGPT).
    """

    needed: int
    square: int

    def scaled(self, factor: float) -> Flops:
        """Operations for this multiple of the tokens."""
        return Flops(round(self.needed * factor), round(self.square * factor))


def count_flops(model: GPT, batch: Batch) -> Flops:
    """Count the matrix products of a forward and backward pass of a batch.

    The count does not depend on the machine: a copy of the model computes on the CPU in fp32, where `attend` uses one fused
    kernel for plain and masked attention. Its formula is in this module: two products of the scores' size forward and four
    backward; recomputation in a kernel does not count. Explicit scores (softcap, sinks, a trained bias) count in full;
    elementwise work, norms and lookups do not count. Dropout is off, which changes no product.

    Args:
        model: Not changed.
        batch: On the CPU.
    """
    counted = copy.deepcopy(model).cpu().eval()
    name = "_scaled_dot_product_flash_attention_for_cpu"
    forward, backward = getattr(torch.ops.aten, name), getattr(torch.ops.aten, f"{name}_backward")
    formulas = {forward: _FusedAttention(forward, 1), backward: _FusedAttention(backward, 2)}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        loss, auxiliary = counted.loss(*batch.inputs)
        torch.autograd.backward(loss + auxiliary)
    square = counter.get_total_flops()
    return Flops(square - sum(formula.unseen for formula in formulas.values()), square)


class _FusedAttention:
    """A formula for torch's counter, which has none for this kernel (torch 2.13).

    Args:
        operator: The torch operator.
        passes: Cost in multiples of the two products of a forward pass.
    """

    _get_raw = True  # the counter then passes tensors instead of shapes, because the values of a mask matter

    def __init__(self, operator: Any, passes: int):
        self.names = [argument.name for argument in operator.default._schema.arguments]
        self.passes = passes
        self.unseen = 0

    def __call__(self, *arguments: Any, **others: Any) -> int:
        given = {**dict(zip(self.names, arguments, strict=False)), **others}
        (batch, heads, time, width), (_, _, source, v_width) = given["query"].shape, given["value"].shape
        square = 2 * batch * heads * time * source * (width + v_width) * self.passes
        mask: Tensor | None = given.get("attn_mask")
        if mask is not None:
            hidden = ~mask if mask.dtype == torch.bool else mask == -torch.inf
            self.unseen += round(square * float(hidden.double().mean()))
        elif given.get("is_causal"):
            self.unseen += square * (time - 1) // (2 * time)
        return square
