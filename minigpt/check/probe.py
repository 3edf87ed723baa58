"""Wraps a part for checking: as layers on a residual stream, or inside a whole model.

Every subject maps floats [B, T, D] and token ids [B, T] to floats [B, T, ...] and can continue from a state. Therefore one
property covers mixers, norms and whole experiments.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minigpt.check.cases import LOOKS_BACK, Case
from minigpt.check.properties.surroundings import refusals
from minigpt.check.targets import Target
from minigpt.contracts import (
    Component,
    Context,
    Dims,
    FeedForward,
    ModelState,
    Norm,
    Position,
    ResidualLinear,
    State,
    substate,
)
from minigpt.experiment import ModelSection
from minigpt.kernels.fused import upcast
from minigpt.model import GPT, after_step, initialise
from minigpt.registry import REGISTRY, Spec

M = TypeVar("M", bound=nn.Module)


class Subject(nn.Module, ABC):
    """A map to check: floats [B, T, D] and token ids [B, T] to floats [B, T, ...]."""

    width: int
    vocab: int
    part_of: tuple[nn.Module, ...]
    """The modules that belong to the target itself."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []  # auxiliary losses of the last forward pass
        self.segments: Int[Tensor, "batch time"] | None = None
        self.progress = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the losses out of copies: torch copies no tensor that a backward pass could start from."""
        return {**self.__dict__, "losses": []}

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time d_model"], tokens: Int[Tensor, "batch time"], state: ModelState | None = None
    ) -> Tensor:
        """Compute the outputs of a whole sequence, or of its next chunk if a state is given."""

    @abstractmethod
    def new_state(self, batch: int, capacity: int, dtype: torch.dtype) -> ModelState:
        """Return an empty state."""

    def set_progress(self, progress: float) -> None:
        """Set which share of the training is done, as a trainer does before each update."""
        self.progress = progress

    def auxiliary(self) -> Tensor:
        """Return the sum of the auxiliary losses of the last forward pass."""
        return sum((upcast(loss) for loss in self.losses), torch.zeros(()))

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Return the target's own parameters by their names in this subject."""
        own = {id(parameter) for module in self.part_of for parameter in module.parameters()}
        return {name: parameter for name, parameter in self.named_parameters() if id(parameter) in own}


class Stack(Subject):
    """Layers of one mixer, feed-forward or norm on a residual stream; no other part can hide mistakes."""

    def __init__(self, layers: list[nn.Module], position: Position, dims: Dims):
        super().__init__()
        self.layers, self.position, self.width = nn.ModuleList(layers), position, dims.d_model
        self.part_of = tuple(layers)

    def forward(self, x: Tensor, tokens: Tensor, state: ModelState | None = None) -> Tensor:
        start = 0 if state is None else state.length
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        x = self.position.embed(x, positions)
        context = Context(positions, self.position, tokens, outputs=[x], segments=self.segments, progress=self.progress)
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Norm):
                x = layer(x)
                continue
            x = x + layer(x, context, substate(state, str(index)))
            context.outputs.append(x)
        if state is not None:
            state.length += len(positions)
        self.losses = context.losses
        return x

    def new_state(self, batch: int, capacity: int, dtype: torch.dtype) -> ModelState:
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        states = {
            str(index): layer.new_state(batch, capacity, device, dtype)
            for index, layer in enumerate(self.layers)
            if isinstance(layer, Component)
        }
        return ModelState(children={name: state for name, state in states.items() if state is not None})


class WholeModel(Subject):
    """A GPT with given floats added to its token vectors, so that any input can be tested."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model, self.width, self.part_of = model, model.dims.d_model, (model,)
        self._x: Tensor | None = None
        model.embedding.register_forward_hook(self._replaced)  # a method, so that a deep copy uses its own _x

    def _replaced(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        return output if self._x is None else output + self._x

    def set_progress(self, progress: float) -> None:
        self.model.set_progress(progress)

    def forward(self, x: Tensor, tokens: Tensor, state: ModelState | None = None) -> Tensor:
        self._x = x
        hidden, context = self.model.hidden(tokens, state, self.segments)
        self._x, self.losses = None, context.losses
        return self.model.logits(hidden)

    def new_state(self, batch: int, capacity: int, dtype: torch.dtype) -> ModelState:
        return self.model.new_state(batch, capacity, dtype)


def build(target: Target, case: Case, *, initial: bool = False) -> Subject:
    """Build the subject of a target.

    Args:
        target: The target.
        case: Its parameters and sizes, and the seed of its weights.
        initial: Keep the initial weights. Otherwise all weights are replaced by larger ones, so that each has an effect,
            and the case's updates follow.

    Raises:
        Unsuitable: A constructor refuses these sizes or parameters.
    """
    if case.updates and not initial:
        return _trained(target, case)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(case.seed)
        with refusals():
            subject = _built(target, case)
        if not initial:
            enlarge_weights(subject)
        subject.train(case.training)
        if not initial:
            limit_outputs(subject, case)
    return subject


def _built(target: Target, case: Case) -> Subject:
    if target.experiment is not None:
        return WholeModel(GPT(target.experiment.model, case.vocab))
    spec = target.spec(case.params)
    if target.family in ("block", "embedding"):
        return _model_with(spec, case)
    sizes = (case.d_model, case.n_layers, case.n_heads, case.head_dim, case.block_size, case.vocab, case.dropout)
    dims = [Dims(*sizes, layer, layer, case.score_factor) for layer in range(case.n_layers)]
    if target.family == "norm":
        return _initialised(Stack([spec.build(case.d_model)], _position("none", dims[0]), dims[0]), dims[0])
    if target.family == "position":
        position = spec.build(dims[0])
        mixer = REGISTRY.resolve("attention", "mha")
        stack = Stack([mixer.build(each) for each in dims], position, dims[0])
        stack.part_of = (position,)
    else:
        stack = Stack([spec.build(each) for each in dims], _position(case.position, dims[0]), dims[0])
    return _initialised(stack, dims[0])


def _position(name: str, dims: Dims) -> Position:
    position: Position = REGISTRY.resolve("position", name).build(dims)
    return position


def _initialised(stack: Stack, dims: Dims) -> Stack:
    initialise(stack, REGISTRY.resolve("init", "gpt2").build(dims))
    after_step(stack)
    return stack


def _model_with(spec: Spec[Any], case: Case) -> WholeModel:
    sizes = {"d_model": case.d_model, "n_heads": case.n_heads, "head_dim": case.head_dim, "block_size": case.block_size}
    section = ModelSection.model_validate(
        {**sizes, "n_layers": case.n_layers, "dropout": case.dropout, "position": case.position, spec.family: spec}
    )
    if case.ffn == LOOKS_BACK:
        section = section.model_copy(update={"ffn": Spec("ffn", LOOKS_BACK, {}, _LooksBack)})
    subject = WholeModel(GPT(section, case.vocab))
    own = subject.model.blocks if spec.family == "block" else (subject.model.embedding, subject.model.head)
    subject.part_of = tuple(module for module in own if module is not None)
    return subject


class _LooksBack(FeedForward):
    """A feed-forward with a state; it reveals a block that does not pass the state on."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.map = ResidualLinear(dims.d_model, dims.d_model)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        before = x.new_zeros(len(x), 1, x.shape[-1]) if state is None else state.tensors["last"].to(x.dtype)
        if state is not None:
            state.tensors["last"] = x[:, -1:]
        return self.map(x + torch.cat((before, x[:, :-1]), 1))

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return State({"last": torch.zeros(batch, 1, self.map.in_features, device=device, dtype=dtype)})


def enlarge_weights(module: nn.Module) -> None:
    """Redraw every weight large enough to have an effect; many initial weights are too small."""
    for parameter in module.parameters():
        if parameter.ndim:
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 1
            nn.init.normal_(parameter, std=min(0.4, 1.6 * fan_in**-0.5))
        else:  # the scale of a scalar has a meaning (a length, for example), so it changes only a little
            parameter.data.add_(0.2 * torch.randn(()))


@torch.no_grad()
def limit_outputs(subject: Subject, case: Case) -> None:
    """Shrink the weights until outputs are below 1000; without a norm, layers that multiply can overflow."""
    x, tokens = inputs(subject, case)
    for _ in range(20):
        largest = copied(subject)(x, tokens).abs().amax()  # a copy, because a part may remember its first pass
        if largest < 1e3:
            return
        for parameter in subject.parameters():
            parameter.mul_(0.6)


def copied(module: M) -> M:
    """Return a deep copy in half the time of `copy.deepcopy`: modules have dozens of empty dictionaries, of hooks."""
    values = (value for each in module.modules() for value in vars(each).values())
    empty = {id(value): type(value)() for value in values if type(value) in (OrderedDict, dict, set) and not value}
    return copy.deepcopy(module, empty)


_MOVING, _KEPT = 20, 8
"""Updates with a gradient, and trained models that a target keeps."""


def _trained(target: Target, case: Case) -> Subject:
    """Return a subject after the case's updates: a copy, because other properties try it too."""
    key = repr(replace(case, training=False))  # one training for both modes
    kept: Subject | None = target.trained.get(key)
    if kept is None:
        kept = build(target, replace(case, updates=0))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(case.seed)
            _train(kept, case)
        if len(target.trained) == _KEPT:
            target.trained.pop(next(iter(target.trained)))
        target.trained[key] = kept
    return copied(kept).train(case.training)


def _train(subject: Subject, case: Case) -> None:
    """Do the case's updates: passes in train mode, each followed by `after_step`, and `progress` that grows.

    The first ones also change each weight by a small step against its gradient. The later ones leave that out, because
    what counts updates or averages inputs changes with every pass, and a pass costs less.
    """
    short = replace(case, time=min(case.time, 8), batch=min(case.batch, 4))
    batches = [inputs(subject, short, offset=100 + number) for number in range(min(case.updates, 8))]
    subject.train()
    for number in range(case.updates):
        subject.set_progress(number / (case.updates + 1))
        with torch.enable_grad():
            y = subject(*batches[number % len(batches)])
            loss = y.square().mean() + subject.auxiliary()
        if number < _MOVING and loss.requires_grad:
            torch.autograd.backward(loss)
            _step(subject)
        after_step(subject)
    subject.set_progress(case.updates / (case.updates + 1))
    with torch.no_grad():
        subject(*batches[0])  # what a part keeps of its last pass has no gradients, so that it can be copied


@torch.no_grad()
def _step(subject: Subject) -> None:
    """Change each weight by a step whose size does not depend on its gradient's, so that no model diverges."""
    for parameter in subject.parameters():
        if parameter.grad is not None:
            parameter.sub_(1e-3 * parameter.grad.nan_to_num().sign())
            parameter.grad = None


def inputs(
    subject: Subject, case: Case, *, offset: int = 0, batch: int | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "batch time d_model"], Int[Tensor, "batch time"]]:
    """Return random floats and token ids, different for each offset and equal for all dtypes."""
    generator = torch.Generator().manual_seed(1000 * case.seed + offset)
    rows = case.batch if batch is None else batch
    x = torch.randn(rows, case.time, subject.width, generator=generator)
    return x.to(dtype), _ids(case, rows, generator)


def _ids(case: Case, rows: int, generator: torch.Generator) -> Int[Tensor, "batch time"]:
    """Return random ids, a quarter of them the first and the last one, which often have a special meaning.

    A batch of many rows has as many different ids as possible at each place: the first ones and the last eight.
    """
    if rows >= 64:
        known = torch.arange(rows)
        known[-8:] = torch.arange(case.vocab - 8, case.vocab)
        places = [known[torch.randperm(rows, generator=generator)] % case.vocab for _ in range(case.time)]
        return torch.stack(places, 1)
    ids = torch.randint(0, case.vocab, (rows, case.time), generator=generator)
    kind = torch.randint(0, 8, ids.shape, generator=generator)
    return ids.masked_fill(kind == 0, 0).masked_fill(kind == 1, case.vocab - 1)
