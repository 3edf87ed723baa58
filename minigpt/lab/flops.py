"""Floating-point operations of an update, counted while the model computes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minigpt.contracts import Batch
from minigpt.data import Corpus, alike_updates, sequence_length, train_batch
from minigpt.experiment import Experiment
from minigpt.model import GPT
from minigpt.run.evaluation import micro_batch_size

_SHAPES = 32  # shapes of batches that are counted; of more, neighbouring ones are counted together
_UPDATES_WITH_SEGMENTS, _ROWS_WITH_SEGMENTS = 4, 8  # rows with segments differ, so more of them are counted


@dataclass(frozen=True)
class Flops:
    """Operations of a forward and backward pass; a multiplication and an addition are two.

    Attributes:
        needed: With only the attention scores that a query can see: about half for plain causal attention.
        square: With all scores, as in the usual count 6 N + 12 L D T per token (PaLM, arXiv:2204.02311; nanoGPT).
    """

    needed: int
    square: int


def count_update(model: GPT, experiment: Experiment, corpus: Corpus) -> Flops:
    """Count the operations of an update, as a mean over the updates of the whole training.

    Batches are drawn from the corpus: their sizes, the earlier tokens that they read (without a backward pass), and their
    segments. A teacher's forward pass counts too. Each shape of a batch is counted once, in micro-batches as on a CPU.

    Args:
        model: From `build_trainable`, on the CPU; not changed.
        experiment: Its experiment.
        corpus: On the CPU.
    """
    needed = square = 0.0
    length, cpu = sequence_length(corpus, experiment), torch.device("cpu")
    for alike in alike_updates(experiment, length, most=_SHAPES):
        step = alike.steps[len(alike.steps) // 2]
        batches = [train_batch(corpus, experiment, step)]
        if batches[0].segments is not None:
            places = range(0, len(alike.steps), -(-len(alike.steps) // _UPDATES_WITH_SEGMENTS))
            batches = [train_batch(corpus, experiment, alike.steps[place]) for place in places]
        for batch in batches:
            update = _count_in_parts(model, batch, micro_batch_size(experiment, cpu, batch.tokens.shape[1]))
            needed += update.needed * alike.weight(batch) / len(batches)
            square += update.square * alike.weight(batch) / len(batches)
    return Flops(round(needed), round(square))


def _count_in_parts(model: GPT, batch: Batch, size: int) -> Flops:
    """The operations of a batch in parts of `size` rows, computed from a few rows.

    Rows cost the same but for their segments, and some operations are done once for all rows of a part, such as the filters
    of a long convolution. So one row is counted, and two or more.
    """
    rows = len(batch.tokens)
    some = min(rows, 2 if batch.segments is None else _ROWS_WITH_SEGMENTS)
    counted = count_flops(model, next(batch.split(some)))
    if rows == 1:
        return counted
    one = count_flops(model, next(batch.split(1))).square  # without regard to what is seen, which differs between rows
    once = one - (counted.square - one) / (some - 1)
    parts = -(-rows // size)
    return Flops(*(round(parts * once + (each - once) / some * rows) for each in (counted.needed, counted.square)))


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
