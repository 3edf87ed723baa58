"""How much memory and disk a run needs, estimated without using them.

A run that does not fit is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minigpt.contracts import Batch
from minigpt.data import Corpus, sequence_length
from minigpt.errors import TooLargeError
from minigpt.experiment import Experiment
from minigpt.model import GPT, build_model, build_model_on_meta
from minigpt.numbers import size
from minigpt.run.checkpoint import KEPT, best_folder
from minigpt.run.contents import runs_opened_by
from minigpt.run.evaluation import autocast, micro_batch_size
from minigpt.system.memory import available_memory, free_disk
from minigpt.training.machine import build_optimizer

_BYTES = 4
"""Bytes of a number in fp32. Weights and optimizer states are fp32 in every precision."""

_COPIES_OF_PARAMETERS = 48
"""Upper bound of the numbers per parameter, reached during a save.

SOAP has the largest state: two averages, and square matrices with their bases, which for a D by 4 D matrix are 8.5 times its
size. A save holds that state four times, besides the weights.
"""

_SCORES_KEPT = 8
"""Numbers kept per pair of tokens and head: scores, bias, mask and softmax, twice for differential attention."""

_VALUES_KEPT = 300
"""Numbers kept per token, model dimension and layer. Hyena keeps the most, about 170."""

_VALUES_KEPT_OF_LOGITS = 8
"""Numbers kept per token and logit: the logits, capped and as fp32, their softmax and its gradient."""


@dataclass(frozen=True)
class Needs:
    """Memory that training needs, in bytes.

    Attributes:
        weights: Parameters and buffers.
        gradients: Gradients of all trained parameters.
        optimizer: The optimizer's state after an update.
        activations: Tensors that the forward pass of one micro-batch keeps for the backward pass.
        teachers: Weights of the runs that the model learns from, and their logits for one micro-batch.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    teachers: int = 0

    @property
    def memory(self) -> int:
        """Peak bytes, either at the start of a backward pass or during a save.

        While the speed is measured, a backward pass also needs a second copy of the weights.

        A save copies the larger of its two files, serializes it and joins the parts.
        """
        training = 2 * self.weights + self.gradients + self.optimizer + self.activations
        return self.teachers + max(training, self.weights + self.optimizer + 3 * max(self.weights, self.optimizer))

    @property
    def checkpoint(self) -> int:
        """Bytes of one checkpoint on disk."""
        return self.weights + self.optimizer


def refuse_what_cannot_fit(
    experiment: Experiment, corpus: Corpus, folder: Path, device: torch.device, precision: str, *, checkpoints: int = 0
) -> None:
    """Refuse a run that needs more memory or disk than is free.

    Args:
        experiment: The experiment to train.
        corpus: Gives the vocabulary size and the length of the sequences.
        folder: Where checkpoints will be written.
        device: Where the run will train.
        precision: `fp32` or `bf16`.
        checkpoints: Number of kept checkpoints that exist already.

    Raises:
        TooLargeError: Memory or disk does not suffice; the message states the estimate and the free amount.
    """
    memory, disk = available_memory(device), free_disk(folder)
    bound = _bound(experiment, corpus.vocab_size, device)
    is_bounded = not experiment.training.optimizer.cls.averages  # it may keep any number of copies of the weights
    if is_bounded and (memory is None or bound < memory) and KEPT * bound < disk:
        return  # even the rough bound fits; the exact estimate would take seconds
    length = sequence_length(corpus, experiment)
    needs = estimate(experiment, corpus.vocab_size, device, precision, most=memory, length=length)
    if memory is not None and needs.memory > memory:
        raise _too_large(needs, memory)
    written = max(1, KEPT - checkpoints) * needs.checkpoint
    if written > disk:
        raise TooLargeError(
            f"the checkpoints of this run will need {size(written)} in {folder} ({size(needs.checkpoint)} each), and "
            f"{size(disk)} are free there; make room, or name another place with --out"
        )


def _too_large(needs: Needs, memory: int) -> TooLargeError:
    parts = {name: size(amount) for name, amount in vars(needs).items() if amount}
    amounts = ", ".join(f"{name} {amount}" for name, amount in parts.items()) + ", and the copies that a save makes"
    part = "training.micro_batch_size or model.block_size" if needs.activations > memory / 2 else "model"
    return TooLargeError(
        f"training needs {size(needs.memory)} of memory ({amounts}), and {size(memory)} are free here; try a smaller {part}"
    )


def estimate(
    experiment: Experiment,
    vocab_size: int,
    device: torch.device,
    precision: str,
    *,
    most: int | None = None,
    length: int | None = None,
) -> Needs:
    """Count the bytes of a forward pass and an update, with tensors that have shapes but no values.

    Args:
        experiment: The experiment to train.
        vocab_size: Number of token ids.
        device: Determines the micro-batch size.
        precision: `fp32` or `bf16`.
        most: Free bytes; counting stops as soon as more are needed.
        length: Tokens in a sequence; None for block_size.
    """
    shapes = build_model_on_meta(experiment.model, vocab_size)
    sequences, length = (
        min(experiment.training.batch_size, micro_batch_size(experiment, device)),
        length or experiment.model.block_size,
    )
    teachers = _bytes_of_teachers(experiment, sequences * length * vocab_size)
    weights = sum(value.nbytes for value in {id(value): value for value in shapes.state_dict().values()}.values())
    gradients = sum(parameter.tensor.nbytes for parameter in shapes.named_roles())
    if most is not None and weights + gradients + teachers > most:
        return Needs(weights, gradients, 0, 0, teachers)
    from torch._subclasses import fake_tensor  # imports torch's compiler, which takes seconds

    ids = torch.zeros((1, 1), dtype=torch.int64).expand(sequences, length)
    with fake_tensor.FakeTensorMode() as mode:
        model = GPT(experiment.model, vocab_size).train()
        optimizer = build_optimizer(experiment, model, precision)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        state = _bytes_of(optimizer.state)
        tokens = mode.from_tensor(ids).contiguous()
        try:
            return Needs(weights, gradients, state, bytes_kept(model, Batch(tokens, tokens), precision), teachers)
        except (fake_tensor.DynamicOutputShapeException, fake_tensor.DataDependentOutputException):
            pass  # shapes depend on values, such as the number of tokens that an expert gets
    if most is not None and weights + gradients + state + teachers > most:
        return Needs(weights, gradients, state, 0, teachers)
    ids = torch.randint(vocab_size, (1, length))
    real = build_model(experiment, vocab_size).train()
    return Needs(weights, gradients, state, sequences * bytes_kept(real, Batch(ids, ids), precision), teachers)


def bytes_kept(model: GPT, batch: Batch, precision: str = "fp32") -> int:
    """Bytes of all tensors that a forward pass saves for the backward pass.

    Each storage counts once; parameters and buffers do not count.

    Args:
        model: In train mode.
        batch: On the model's device.
        precision: `fp32` or `bf16`.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # holds the storages, so that no address is reused

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(precision, batch.tokens.device):
        loss, auxiliary = model.loss(*batch.inputs)
        total = loss + auxiliary  # keeps the graph alive until everything is counted
    amount = sum(storage.nbytes() for storage in kept.values())
    del total
    return amount


def _bytes_of_teachers(experiment: Experiment, logits: int) -> int:
    """Bytes of the runs that the model learns from, by the sizes of their checkpoints, so that none is opened for it."""
    runs = [path for spec in experiment.specs() for path in runs_opened_by(spec)]
    best = [folder / "model.safetensors" for path in runs if (folder := best_folder(path / "checkpoints"))]
    return sum(file.stat().st_size + _BYTES * logits for file in best if file.is_file())


def _bytes_of(tree: object) -> int:
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, dict):
        return sum(map(_bytes_of, tree.values()))
    return sum(map(_bytes_of, tree)) if isinstance(tree, list | tuple) else 0


def _bound(experiment: Experiment, vocab_size: int, device: torch.device) -> int:
    """An upper bound of the bytes that training and saving need.

    Tests check it for every shipped component.
    """
    model = experiment.model
    parameters = sum(value.numel() for value in build_model_on_meta(model, vocab_size).state_dict().values())
    sequences = min(experiment.training.batch_size, micro_batch_size(experiment, device))
    tokens = sequences * model.block_size
    pairs = sequences * model.block_size**2 * model.n_heads * model.n_layers
    kept = tokens * (_VALUES_KEPT * model.d_model * model.n_layers + _VALUES_KEPT_OF_LOGITS * vocab_size)
    teachers = _bytes_of_teachers(experiment, tokens * vocab_size)
    return _BYTES * (_COPIES_OF_PARAMETERS * parameters + _SCORES_KEPT * pairs + kept) + teachers
