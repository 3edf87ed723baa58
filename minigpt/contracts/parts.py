"""Parts of a model, and what they are handed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minigpt.contracts.state import State
from minigpt.registry import Spec


@dataclass(frozen=True)
class Dims:
    """The sizes that all components of one model share, and the place of the layer that one is built for.

    Attributes:
        d_model: Width D of the residual stream.
        n_layers: Number of blocks.
        n_heads: Number H of query heads.
        head_dim: Width K of one head.
        block_size: Longest context T in training.
        vocab_size: Number V of token ids.
        dropout: Rate on embeddings and on what each sub-layer adds to the residual stream.
        layer: Index of the layer that a component is built for.
        occurrence: How many earlier layers have a token mixer of the same name (0 in the first, which has no earlier
            values to mix in).
    """

    d_model: int
    n_layers: int
    n_heads: int
    head_dim: int
    block_size: int
    vocab_size: int
    dropout: float
    layer: int = 0
    occurrence: int = 0


@dataclass(frozen=True)
class Context:
    """What one layer call is told beside its input.

    Attributes:
        positions: Absolute positions of the new tokens, ascending by one: the only clock there is.
        position: This layer's position component.
        tokens: Ids of the new tokens, for what looks up rows of a table of its own (value embeddings).
        losses: Auxiliary losses go here; the model adds them to the training loss.
        outputs: The residual stream before the first block and after each block so far: a skip connection reads it.
        shared: Values that later layers read (a value residual).
    """

    positions: Int[Tensor, " time"]
    position: Position
    tokens: Int[Tensor, "batch time"]
    losses: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)


class Component(nn.Module, ABC):
    """Base of every part of a model."""

    elementwise: ClassVar[frozenset[str]] = frozenset()
    """Its own parameters that have two axes or more and yet are no matrices, such as the kernels of a depthwise
    convolution: an optimizer treats them as it does gains."""

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State | None:
        """An empty state for decoding up to `capacity` tokens, or None where nothing has to be remembered.

        A component that remembers overrides this; one that only contains others inherits it.
        """
        children = {
            name: state
            for name, child in _nearest_components(self)
            if (state := child.new_state(batch, capacity, device, dtype)) is not None
        }
        return State(children=children) if children else None

    def init_weights(self) -> None:
        """Set what the mechanism prescribes beyond the model-wide initialisation, which has run by then."""

    def n_idle(self) -> int:
        """How many of its own parameters a token passes by, such as those of the experts that were not chosen."""
        return 0

    def after_step(self) -> None:
        """Called without gradients once the weights are initialised and after every update of them.

        For what an optimizer does not do: weights kept at a length (nGPT), a balance adjusted by what was counted (MoE).
        """


def _nearest_components(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Component]]:
    """Components inside `module` that are not inside another component, with their dotted names."""
    for name, child in module.named_children():
        if isinstance(child, Component):
            yield prefix + name, child
        else:
            yield from _nearest_components(child, f"{prefix}{name}.")


class Attention(Component):
    """Token mixers: softmax, linear, recurrent, convolution. Constructor: `(dims, *, ...)`."""

    uses: ClassVar[frozenset[str]] = frozenset()
    """The position hooks it honours: a subset of {"rotate", "bias"}."""

    reach: int | None = None
    """How many tokens back an output looks, its own included; None where there is no such bound. A promise: `check` holds
    the output, and the size of the state, to it."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        """Mix causally: output t depends on inputs up to t. With a state it continues from there, in chunks of any size."""


class Position(Component):
    """How the model knows where a token stands. Override the hooks that are used. Constructor: `(dims, *, ...)`."""

    max_positions: int | None = None
    """First position that it cannot represent, or None where there is no such limit."""

    relative: bool = False
    """A promise: what rotate and bias make of a query and a key depends on the distance between them alone."""

    keeps_norm: bool = False
    """A promise: rotate leaves each query's and key's length as it is."""

    @property
    def hooks(self) -> frozenset[str]:
        """Which of embed, rotate and bias this component overrides."""
        names = ("embed", "rotate", "bias")
        return frozenset(name for name in names if getattr(type(self), name) is not getattr(Position, name))

    def embed(
        self, x: Float[Tensor, "batch time d_model"], positions: Int[Tensor, " time"]
    ) -> Float[Tensor, "batch time d_model"]:
        """Add position to the token embeddings, once, before the first block (a model-wide choice only)."""
        return x

    def rotate(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch kv_heads time head_dim"],
        positions: Int[Tensor, " time"],
    ) -> tuple[Float[Tensor, "batch heads time head_dim"], Float[Tensor, "batch kv_heads time head_dim"]]:
        """Turn queries and keys by their positions, before keys are remembered."""
        return q, k

    def bias(
        self, q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"]
    ) -> Float[Tensor, "bias_heads time source"] | None:
        """What is added to the scores, one plane a query head or one for all; None for nothing."""
        return None


class Norm(Component):
    """Normalisation of the last axis. Constructor: `(width, *, ...)`."""

    scaling: ClassVar[Literal["invariant", "equivariant"] | None] = None
    """A promise about inputs a times as large: "invariant", the same output (but for eps); "equivariant", one a times as
    large; None promises nothing."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        """Normalise each vector by itself."""


class FeedForward(Component):
    """What follows attention: each position by itself, unless it keeps a state. Constructor: `(dims, *, ...)`."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        """Transform each position; one that looks back at earlier ones remembers them in its state."""


@dataclass(frozen=True)
class Layer:
    """The components chosen for one layer: what a block is made of.

    Attributes:
        attention: Built with `.build(dims)`.
        ffn: Built with `.build(dims)`.
        norm: Built with `.build(width)`, as often as the block needs one.
        position: Built by the model; layers that choose alike share one.
    """

    attention: Spec[Attention]
    ffn: Spec[FeedForward]
    norm: Spec[Norm]
    position: Spec[Position]


class Block(Component):
    """How norms and residual connections make a layer. Constructor: `(dims, layer, *, ...)`.

    A block may keep the residual stream in a form of its own, such as several streams side by side: `enter` makes it of
    the plain one, `leave` makes a plain one of it. Layers of one block in a row enter once and leave once.
    """

    final_norm: ClassVar[bool] = True
    """Whether the stack needs a norm after the last block (pre-norm leaves the residual stream unnormalised)."""

    starts_as_identity: ClassVar[bool] = False
    """A promise: with its initial weights it gives back its input."""

    def enter(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time *streams d_model"]:
        """From the plain residual stream to this block's own form."""
        return x

    def leave(self, x: Float[Tensor, "batch time *streams d_model"]) -> Float[Tensor, "batch time d_model"]:
        """From this block's form back to the plain residual stream."""
        return x

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time *streams d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time *streams d_model"]:
        """Residual stream in, residual stream out. Sub-components get `substate(state, "their attribute's name")`."""


INIT_STD = 0.02
"""Standard deviation that linear maps and embeddings start with (GPT-2: Radford et al. 2019)."""


class ResidualLinear(nn.Linear):
    """A linear map whose output is added to the residual stream.

    The model-wide initialisation divides its standard deviation by sqrt(2 n_layers), so that the stream's variance at
    the end does not grow with depth (GPT-2: Radford et al. 2019, section 2.3).
    """


class InnerLinear(nn.Linear):
    """A linear map that neither reads the residual stream nor writes to it, such as the second of a low-rank pair.

    nGPT keeps the others on the sphere, and leaves these alone.
    """
