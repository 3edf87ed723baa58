"""Contracts of the parts of a model, and the arguments that they receive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minigpt.contracts.ramp import Ramp
from minigpt.contracts.state import State
from minigpt.registry import Spec

INIT_STD = 0.02
"""Initial standard deviation of linear maps and embeddings (GPT-2: Radford et al. 2019)."""


@dataclass(frozen=True)
class Dims:
    """The sizes that all components of a model share, and the index of the component's layer.

    Attributes:
        d_model: Width D of the residual stream.
        n_layers: Number of blocks.
        n_heads: Number H of query heads.
        head_dim: Width K of one head.
        block_size: Longest context T in training.
        vocab_size: Number V of token ids.
        dropout: Rate on the embeddings and on each sub-layer's output.
        layer: Index of the component's layer.
        occurrence: How many earlier layers have a token mixer of the same name. It is 0 in the first one, which has no
            earlier values to mix in.
        score_factor: Factor on attention scores, beside 1/sqrt(head_dim), that the initialisation prescribes.
    """

    d_model: int
    n_layers: int
    n_heads: int
    head_dim: int
    block_size: int
    vocab_size: int
    dropout: float | Ramp
    layer: int = 0
    occurrence: int = 0
    score_factor: float = 1.0


@dataclass(frozen=True)
class Context:
    """What a layer receives in addition to its input.

    Attributes:
        positions: Absolute positions of the new tokens, ascending by one. Use them instead of counting tokens. They are the
            places in the row, also where a batch has other positions for `Position.embed`.
        position: This layer's position component.
        tokens: Ids of the new tokens, for components with a table by token (value embeddings).
        losses: A component appends its auxiliary losses; the model adds them to the training loss.
        outputs: The residual stream before the first block and after each block so far, for skip connections.
        shared: Values that later layers read (a value residual).
        segments: A token attends only to tokens with the same number; None if all attend to all before them. Components
            that honour it declare `segments` in `uses`.
        progress: Share of the training that is done, from 0 to 1.
    """

    positions: Int[Tensor, " time"]
    position: Position
    tokens: Int[Tensor, "batch time"]
    losses: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)
    segments: Int[Tensor, "batch time"] | None = None
    progress: Float[Tensor, ""] | float = 0.0


class Component(nn.Module, ABC):
    """Base of every part of a model."""

    uses: frozenset[str] = frozenset()
    """What it applies: an attention the position's hooks "rotate" and "bias", and "score_factor" of `Dims`; any component
    "segments" of the context. A model that needs another one of an attention is refused. A batch with segments is refused
    if the model has an attention, or a component with its own `new_state`, that does not keep them apart."""

    elementwise: ClassVar[frozenset[str]] = frozenset()
    """Names of own parameters with two or more axes that are not matrices, such as the kernel of a depthwise convolution.
    An optimizer treats them like gains."""

    differs_in_training: bool = False
    """A promise: train mode computes something else than eval mode even without dropout, and this is meant (noise, layers
    that are left out). It counts for what contains the component."""

    surrogate_gradient: bool = False
    """A promise: the backward pass is not the gradient of the forward pass, and this is meant (a straight-through
    estimate, a stopped gradient). It counts for what contains the component."""

    matrix_std: float = INIT_STD
    residual_std: float = INIT_STD
    residual_factor: float = 1.0
    """What the model's initialisation prescribes for matrices that are no nn.Linear (see `Init`): their deviations, and
    the factor on what they write to the residual stream. Set before `init_weights`."""

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State | None:
        """An empty state for decoding up to `capacity` tokens; None if the component has no state.

        A component that keeps a state overrides this. A component that only contains others inherits it.
        """
        children = {
            name: state
            for name, child in _nearest_components(self)
            if (state := child.new_state(batch, capacity, device, dtype)) is not None
        }
        return State(children=children) if children else None

    def init_weights(self) -> None:
        """Initialise what the mechanism prescribes. The model-wide initialisation has run before."""

    def n_idle(self) -> int:
        """How many of this component's parameters a token does not use, such as those of other experts."""
        return 0

    def after_step(self) -> None:
        """Adjust the weights: called without gradients after initialisation and after every update.

        For what an optimizer does not do, such as weights of a fixed length (nGPT) or a balance by counted load (MoE).
        """


def _nearest_components(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Component]]:
    """Components inside `module` but not inside another component, with their dotted names."""
    for name, child in module.named_children():
        if isinstance(child, Component):
            yield prefix + name, child
        else:
            yield from _nearest_components(child, f"{prefix}{name}.")


class Attention(Component):
    """A token mixer: softmax, linear, recurrent, convolution. Constructor: `(dims, *, ...)`."""

    reach: int | None = None
    """How many tokens an output depends on at most, its own included; None for no bound. A promise: `check` tests the
    output and the size of the state."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        """Mix causally: output t depends on inputs up to t.

        With a state it continues from there, in chunks of any size.
        """


class Position(Component):
    """How position enters the model. Override the hooks that you use. Constructor: `(dims, *, ...)`."""

    max_positions: int | None = None
    """The first position that it cannot represent; None for no limit."""

    relative: bool = False
    """A promise: the effect of rotate and bias on a query and a key depends only on their distance."""

    keeps_norm: bool = False
    """A promise: rotate does not change the length of a query or a key."""

    per_row: bool = False
    """A promise: embed also takes positions [batch, time], which may differ between rows (`Batch.positions`)."""

    @property
    def hooks(self) -> frozenset[str]:
        """Which of embed, rotate and bias this component overrides."""
        names = ("embed", "rotate", "bias")
        return frozenset(name for name in names if getattr(type(self), name) is not getattr(Position, name))

    def embed(
        self, x: Float[Tensor, "batch time d_model"], positions: Int[Tensor, "*batch time"]
    ) -> Float[Tensor, "batch time d_model"]:
        """Add position to the token embeddings, once, before the first block.

        Only the model's position may do this, not the position of a single layer.
        """
        return x

    def rotate(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch kv_heads time head_dim"],
        positions: Int[Tensor, " time"],
    ) -> tuple[Float[Tensor, "batch heads time head_dim"], Float[Tensor, "batch kv_heads time head_dim"]]:
        """Rotate queries and keys by their positions, before keys are cached."""
        return q, k

    def bias(
        self, q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"]
    ) -> Float[Tensor, "bias_heads time source"] | None:
        """The bias added to the scores, one plane for each query head or one for all; None for no bias."""
        return None


class Norm(Component):
    """Normalisation of the last axis. Constructor: `(width, *, ...)`."""

    scaling: ClassVar[Literal["invariant", "equivariant"] | None] = None
    """A promise for inputs multiplied by a > 0: "invariant", the output stays the same (up to eps); "equivariant", the
    output is multiplied by a. None promises nothing."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        """Normalise each vector separately."""


class FeedForward(Component):
    """The sub-layer after attention, on each position separately or with a state. Constructor: `(dims, *, ...)`."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        """Transform each position. A layer that looks back at earlier positions keeps them in its state."""


@dataclass(frozen=True)
class Layer:
    """The components chosen for one layer, from which a block is built.

    Attributes:
        attention: Built with `.build(dims)`.
        ffn: Built with `.build(dims)`.
        norm: Built with `.build(width)`, once for each norm that the block needs.
        position: Built by the model; layers with the same choice share one.
        block: The layer's own block, for a component that builds another such layer.
    """

    attention: Spec[Attention]
    ffn: Spec[FeedForward]
    norm: Spec[Norm]
    position: Spec[Position]
    block: Spec[Block]


class Block(Component):
    """How norms and residual connections make a layer. Constructor: `(dims, layer, *, ...)`.

    A block may represent the residual stream in another form, such as several parallel streams: `enter` converts the plain
    stream to this form and `leave` converts it back. A run of layers with the same block enters once and leaves once.
    """

    final_norm: bool = True
    """Whether the model needs a norm after the last block (pre-norm leaves the residual stream unnormalised)."""

    starts_as_identity: bool = False
    """A promise: with initial weights the block returns its input."""

    def enter(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time *streams d_model"]:
        """Convert the plain residual stream to this block's form."""
        return x

    def leave(self, x: Float[Tensor, "batch time *streams d_model"]) -> Float[Tensor, "batch time d_model"]:
        """Convert this block's form to the plain residual stream."""
        return x

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time *streams d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time *streams d_model"]:
        """Residual stream in, residual stream out.

        A sub-component gets the state `substate(state, "the attribute's name")`.
        """


class ResidualLinear(nn.Linear):
    """A linear map whose output is added to the residual stream.

    The model-wide initialisation divides its standard deviation by sqrt(2 n_layers), so that the variance of the stream
    does not grow with depth (GPT-2: Radford et al. 2019, section 2.3).

    Attributes:
        factor: On the output; set by the model's initialisation.
    """

    factor: float = 1.0

    def forward(self, input: Float[Tensor, "*axes in_features"]) -> Float[Tensor, "*axes out_features"]:
        y = super().forward(input)
        return y if self.factor == 1 else self.factor * y


class InnerLinear(nn.Linear):
    """A linear map that neither reads nor writes the residual stream, such as the second of a low-rank pair.

    nGPT constrains all other linear maps to the sphere.
    """
