"""The cost of a model, measured and not from formulas: parameters, operations, memory."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from minigpt.contracts import Attention, Batch, Block, Component, FeedForward, Norm, Position
from minigpt.data import Corpus, sequence_length, tokens_trained
from minigpt.experiment import Experiment
from minigpt.lab.flops import count_flops, count_update
from minigpt.model import GPT
from minigpt.training.fitting import bytes_kept

_KINDS: tuple[tuple[type[Component], str], ...] = (
    (Attention, "attention"),
    (FeedForward, "ffn"),
    (Norm, "norm"),
    (Position, "position"),
    (Block, "block"),
)


@dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes:
        parameters: Number by kind: embedding, position, attention, ffn, norm, block, head, objective. Parts inside a mixer,
            feed-forward, embedding or objective, such as the norm of queries, count as that; a tied head has no parameters.
        active: Parameters that a token uses; fewer than all in a mixture of experts.
        context: Number of tokens in the longest sequence that is trained; activations and state are those of such a one.
        train_flops: Operations per token, forward and backward, with the scores that a query can see.
        train_flops_square: The same with all scores of the square, as is often counted.
        activation_bytes: Bytes per token that the forward pass keeps for the backward pass, in fp32.
        state_bytes_token: Bytes of decoding state for each further token, in fp32.
        state_bytes: Bytes of decoding state for a sequence as long as the context.
    """

    parameters: dict[str, int]
    active: int
    context: int
    train_flops: int
    train_flops_square: int
    activation_bytes: int
    state_bytes_token: int
    state_bytes: int

    @property
    def total(self) -> int:
        """Number of all parameters."""
        return sum(self.parameters.values())

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"total": self.total, **asdict(self)}


def measure_cost(model: GPT, length: int | None = None) -> Cost:
    """Count one plain sequence in a copy of the model, on the CPU in fp32.

    Args:
        model: Not changed; neither is the random state.
        length: Tokens in the sequence, as in training; None for the model's block_size.
    """
    counted = copy.deepcopy(model).cpu().float().train()
    context = model.dims.block_size if length is None else length
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        ids = torch.randint(model.dims.vocab_size, (1, context + 1))
        batch = Batch(ids[:, :-1], ids[:, 1:])
        flops = count_flops(counted, batch)
        kept = bytes_kept(counted, batch)
    return Cost(
        parameters=_by_kind(model),
        active=model.n_parameters() - sum(part.n_idle() for part in model.modules() if isinstance(part, Component)),
        context=context,
        train_flops=round(flops.needed / context),
        train_flops_square=round(flops.square / context),
        activation_bytes=round(kept / context),
        state_bytes_token=model.state_bytes_token,
        state_bytes=model.state_bytes(context),
    )


def measure_training_cost(model: GPT, experiment: Experiment, corpus: Corpus) -> Cost:
    """The same, but the operations per token are those of the batches that are trained (`count_update`).

    Args:
        model: From `build_trainable`, on the CPU; not changed.
        experiment: Its experiment.
        corpus: On the CPU.
    """
    length, update = sequence_length(corpus, experiment), count_update(model, experiment, corpus)
    tokens = tokens_trained(experiment, length) / experiment.training.max_iters
    needed, square = round(update.needed / tokens), round(update.square / tokens)
    return replace(measure_cost(model, length), train_flops=needed, train_flops_square=square)


def _by_kind(model: GPT) -> dict[str, int]:
    """Each parameter once, under the outermost part that contains it."""
    kinds = dict.fromkeys(("embedding", "position", "attention", "ffn", "norm", "block", "head", "objective"), 0)
    seen: set[int] = set()

    def walk(module: nn.Module, kind: str) -> None:
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                kinds[kind] += parameter.numel()
        for child in module.children():
            own = next((name for base, name in _KINDS if isinstance(child, base)), kind)
            walk(child, own if kind in ("head", "block") else kind)

    walk(model.embedding, "embedding")
    walk(model.objective, "objective")
    walk(model, "head")  # all others
    return {kind: count for kind, count in kinds.items() if count}
