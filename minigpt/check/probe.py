"""Wraps a part for checking: as layers on a residual stream, or inside a whole model.

Every subject maps floats [B, T, D] and token ids [B, T] to floats [B, T, ...] and can continue from a state. Therefore one
property covers mixers, norms and whole experiments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from jaxtyping import Float, Int
from torch import Tensor, nn

from minigpt.check.parameters import parameter_sets, parameters
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

VOCAB = 23
LOOKS_BACK = "looks_back"
LONG = 130
"""A length of more than two chunks of 64, the most common chunk size in kernels."""


@dataclass(frozen=True)
class Case:
    """One test case for a part of a model.

    An experiment uses its own parameters and sizes, except `time`, `batch`, `training` and `seed`.

    Attributes:
        params: Parameters that differ from the defaults.
        n_heads: Number H of query heads.
        head_dim: Width K of one head.
        d_model: Width D of the residual stream.
        n_layers: Number of layers, all of the same component.
        position: Position component used with an attention.
        ffn: Feed-forward inside a block.
        block_size: Longest context, in tokens.
        time: Number T of tokens.
        batch: Number B of sequences.
        training: Whether the model is in train mode.
        dropout: The model's dropout rate in train mode.
        score_factor: On attention scores.
        seed: Seed of weights and inputs.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    n_heads: int = 2
    head_dim: int = 4
    d_model: int = 8
    n_layers: int = 2
    position: str = "none"
    ffn: str = "mlp"
    block_size: int = 40
    time: int = 40
    batch: int = 2
    training: bool = False
    dropout: float = 0.0
    score_factor: float = 1.0
    seed: int = 0

    def shown(self, target: Target) -> list[str]:
        """Return the fields that affect a target; for example, a norm has no heads."""
        if target.experiment is not None:
            return ["time", "batch", "training", "seed"]
        if target.family == "norm":
            return ["params", "d_model", "time", "batch", "training", "seed"]
        neighbours = {"attention": ["position"], "block": ["ffn"]}.get(target.family, [])
        sizes = ["n_heads", "head_dim", "d_model", "n_layers", "block_size", "time", "batch"]
        return ["params", *neighbours, *sizes, "training", "dropout", "seed"]


def standard_cases(target: Target) -> list[Case]:
    """Return the defaults at many sizes and in both modes, then cases with one parameter changed each."""
    positions = positions_for(target)
    if target.experiment is not None:
        size = target.experiment.model.block_size
        times = dict.fromkeys(min(size, time) for time in (33, size, 1))
        return [Case(block_size=size, time=time, training=mode) for time in times for mode in (False, True)]
    base, *changed = parameter_sets(target)
    cases = [
        Case(base, block_size=LONG, time=LONG, position=positions[-1]),
        Case(base, 3, 6, 18, block_size=66, time=66, training=True, dropout=0.2, position=positions[0], ffn=LOOKS_BACK),
        Case(base, 1, 8, 8, 1, block_size=32, time=1, batch=1, position=positions[-1]),
        Case(base, 4, 4, 20, 1, block_size=32, time=2, batch=1),
        Case(base, 8, 32, 256, block_size=64, time=64, position=positions[len(positions) // 2], seed=1),
        Case(base, 2, 4, 8, 5, time=12, position=positions[-1], seed=2),  # for mistakes in every third layer
        Case(base, 1, 4, 4, 1, block_size=300, time=300, batch=1, position=positions[-1], seed=3),  # over a chunk of 256
        Case(base, 1, 4, 4, 1, block_size=300, time=300, batch=1, training=True, position=positions[0], seed=4),
    ]
    cases += [
        Case(params, 4, 4, 16, time=24, position=positions[number % len(positions)], training=number % 2 == 1, seed=number)
        for number, params in enumerate(changed)
    ]
    return cases


def fewer_cases(target: Target) -> list[Case]:
    """Return the first standard cases, for slow properties that parameters seldom affect."""
    return standard_cases(target)[:10]


def any_case(target: Target) -> st.SearchStrategy[Case]:
    """Return a strategy for any case; it shrinks to the smallest."""
    if target.experiment is not None:
        times = st.integers(1, min(40, target.experiment.model.block_size))
        size = target.experiment.model.block_size
        return st.builds(Case, block_size=st.just(size), time=times, training=st.booleans(), seed=st.integers(0, 9))

    @st.composite
    def draw(pick: st.DrawFn) -> Case:
        n_heads, head_dim = pick(st.sampled_from([2, 1, 3, 4, 6])), pick(st.sampled_from([4, 2, 6, 8, 16]))
        time = pick(st.integers(1, 70))
        return Case(
            params=pick(parameters(target)),
            n_heads=n_heads,
            head_dim=head_dim,
            d_model=n_heads * head_dim + pick(st.sampled_from([0, 0, 0, 2])),
            n_layers=pick(st.integers(1, 2)),
            position=pick(st.sampled_from(positions_for(target))),
            ffn=pick(st.sampled_from(["mlp", LOOKS_BACK])) if target.family == "block" else "mlp",
            block_size=pick(st.sampled_from([time, 70, LONG])),
            time=time,
            batch=pick(st.integers(1, 3)),
            training=pick(st.booleans()),
            seed=pick(st.integers(0, 99)),
        )

    return draw()


def positions_for(target: Target) -> list[str]:
    """Return the position components to use with an attention: none, and one for each hook it uses."""
    uses: frozenset[str] = getattr(target.entry.cls, "uses", frozenset()) if target.entry else frozenset()
    return ["none", *(name for hook, name in (("bias", "alibi"), ("rotate", "rope")) if hook in uses)]


class Subject(nn.Module, ABC):
    """A map to check: floats [B, T, D] and token ids [B, T] to floats [B, T, ...]."""

    width: int
    part_of: tuple[nn.Module, ...]
    """The modules that belong to the target itself."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []  # auxiliary losses of the last forward pass
        self.segments: Int[Tensor, "batch time"] | None = None

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time d_model"], tokens: Int[Tensor, "batch time"], state: ModelState | None = None
    ) -> Tensor:
        """Compute the outputs of a whole sequence, or of its next chunk if a state is given."""

    @abstractmethod
    def new_state(self, batch: int, capacity: int, dtype: torch.dtype) -> ModelState:
        """Return an empty state."""

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
        context = Context(positions, self.position, tokens, outputs=[x], segments=self.segments)
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
        initial: Keep the initial weights. Otherwise all weights are replaced by larger ones, so that each has an effect.

    Raises:
        Unsuitable: A constructor refuses these sizes or parameters.
    """
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
        return WholeModel(GPT(target.experiment.model, VOCAB))
    spec = target.spec(case.params)
    if target.family in ("block", "embedding"):
        return _model_with(spec, case)
    sizes = (case.d_model, case.n_layers, case.n_heads, case.head_dim, case.block_size, VOCAB, case.dropout)
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
    subject = WholeModel(GPT(section, VOCAB))
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
        largest = subject(x, tokens).abs().amax()
        if largest < 1e3:
            return
        for parameter in subject.parameters():
            parameter.mul_(0.6)


def inputs(
    subject: Subject, case: Case, *, offset: int = 0, batch: int | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "batch time d_model"], Int[Tensor, "batch time"]]:
    """Return random floats and token ids, different for each offset and equal for all dtypes."""
    generator = torch.Generator().manual_seed(1000 * case.seed + offset)
    rows = case.batch if batch is None else batch
    x = torch.randn(rows, case.time, subject.width, generator=generator)
    return x.to(dtype), torch.randint(0, VOCAB, (rows, case.time), generator=generator)
