"""What each family of components receives and returns. A component keeps its contract or it is refused.

Axis names in the annotations: batch B, time T (new tokens), source S (remembered plus new), d_model D, heads H (query
heads), kv_heads G, head_dim K, vocab V. Components never know the trainer, the file system or the command line, and
they reach another family only through a `Spec`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minigpt.cache import RemoteFile
from minigpt.registry import REGISTRY, Spec

# --------------------------------------------------------------------------------------- what is handed to components


@dataclass(frozen=True)
class Dims:
    """The sizes that all components of one model share.

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


@dataclass
class State:
    """What decoding must remember, for one component or, through `children`, for a tree of them.

    It is changed in place by the forward pass that receives it, and only without gradients.

    Attributes:
        tensors: Named tensors, batch first, so that repeat, select and nbytes are written once, here.
        positions: Positions of the remembered keys (a buffer of which `length` entries count); None for a recurrence.
        length: Entries in use; in a model's own state, the number of tokens it has consumed.
        children: States of named sub-components.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    positions: Tensor | None = None
    length: int = 0
    children: dict[str, State] = field(default_factory=dict)

    def select(self, rows: Int[Tensor, " rows"]) -> State:
        """The state of some sequences of the batch, in the given order; a row may be asked for more than once."""
        return State(
            {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()},
            None if self.positions is None else self.positions.clone(),
            self.length,
            {name: state.select(rows) for name, state in self.children.items()},
        )

    def repeat(self, times: int) -> State:
        """Each sequence of the batch `times` times in a row."""
        return State(
            {name: tensor.repeat_interleave(times, 0) for name, tensor in self.tensors.items()},
            None if self.positions is None else self.positions.clone(),
            self.length,
            {name: state.repeat(times) for name, state in self.children.items()},
        )

    @property
    def nbytes(self) -> int:
        """Bytes held, buffers counted whole."""
        own = sum(tensor.nbytes for tensor in self.tensors.values())
        return own + sum(state.nbytes for state in self.children.values())


def substate(state: State | None, name: str) -> State | None:
    """The part of a state that belongs to the sub-component `name`, if there is any."""
    return None if state is None else state.children.get(name)


# ---------------------------------------------------------------------------------------------------- parts of a model


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

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        """Mix causally: output t depends on inputs up to t. With a state it continues from there, in chunks of any size."""


class Position(Component):
    """How the model knows where a token stands. Override the hooks that are used. Constructor: `(dims, *, ...)`."""

    max_positions: int | None = None
    """First position that it cannot represent, or None where there is no such limit."""

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


# ------------------------------------------------------------------------------------------------------ text and data


class Tokenizer(ABC):
    """Text to ids and back, without loss for any text it claims. Constructor: `(*, ...)`; then `fit` or `from_json`."""

    fits_on: ClassVar[Literal["train", "all"]] = "train"
    """Which text `fit` is given. "all" is for an inventory of symbols, which says nothing about their order."""

    @abstractmethod
    def fit(self, text: str) -> None:
        """Learn the vocabulary."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids; every id is below it."""

    @abstractmethod
    def encode(self, text: str) -> Int[np.ndarray, " tokens"]:
        """Text to ids.

        Raises:
            TokenizerError: The text has a symbol outside the vocabulary; the message names it and its place.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """Ids to text. Ids that are no text (half a character) give U+FFFD, never an exception."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """All that was learned, for the run folder."""

    @abstractmethod
    def from_json(self, learned: dict[str, Any]) -> None:
        """Take back what `to_json` gave."""


@dataclass(frozen=True)
class Sequences:
    """Rows of a synthetic task, with targets of their own.

    Attributes:
        tokens: Input ids.
        targets: What to predict at each place.
        mask: Which targets count.
    """

    tokens: Int[np.ndarray, "rows time"]
    targets: Int[np.ndarray, "rows time"]
    mask: Bool[np.ndarray, "rows time"]


@dataclass(frozen=True)
class Splits:
    """A corpus, divided: both text, or both Sequences.

    Attributes:
        train: What the model learns from.
        val: What it is measured on, whole.
        vocab_size: Number of ids of a synthetic task; text leaves it to the tokenizer.
    """

    train: str | Sequences
    val: str | Sequences
    vocab_size: int | None = None

    @classmethod
    def of_text(cls, text: str, val_fraction: float) -> Splits:
        """The first part of the text for training, the rest for validation."""
        cut = int(len(text) * (1 - val_fraction) + 1e-6)  # 1e-6: 1 - 0.1 is a hair below 0.9
        return cls(text[:cut], text[cut:])


class Dataset(ABC):
    """A source of text, or of Sequences for a synthetic task. Constructor: `(*, ...)`."""

    remote: ClassVar[RemoteFile | None] = None
    """The file it is downloaded from, if any; `minigpt data` lists, fetches and adds it."""

    @abstractmethod
    def load(self) -> Splits:
        """Read or make the data; the same splits every time.

        Raises:
            DataError: It is missing or damaged; the message says how to go on.
        """


# --------------------------------------------------------------------------------------------------------- optimising


@dataclass(frozen=True)
class NamedParameter:
    """A trainable tensor and what it is for, so that an optimizer can treat kinds apart.

    Attributes:
        name: Dotted path in the model.
        tensor: The parameter.
        role: `matrix` (inside the blocks; more than two axes are a stack of matrices), `embedding`, `head`, or `vector`
            (biases, gains, and what its component declares `elementwise`).
    """

    name: str
    tensor: nn.Parameter
    role: Literal["matrix", "embedding", "head", "vector"]


class Optimizer(ABC):
    """Recipes for torch optimizers. Constructor: `(*, ...)`."""

    @abstractmethod
    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        """Put every parameter into a group. Each group's `lr` is its peak: the trainer multiplies it by the schedule.

        The state_dict may hold tensors, numbers, text, lists and dicts: it is saved without pickle, to the bit.
        """


class AveragingOptimizer(torch.optim.Optimizer, ABC):
    """A torch optimizer that trains at other weights than those it answers with, such as their average.

    The trainer calls `eval` before it measures, samples or saves, and `train` before it goes on; both are exact, and a
    loaded state is one that was saved after `eval`.
    """

    @abstractmethod
    def eval(self) -> None:
        """Put the weights to be used into the parameters."""

    @abstractmethod
    def train(self) -> None:
        """Put the weights to be trained back into the parameters."""


class Schedule(ABC):
    """Learning rate over training, as a share of its peak. Constructor: `(max_iters, *, ...)`."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """The share for update number `step`, 0 to max_iters - 1: finite, not negative, and a function of `step` alone."""


# ----------------------------------------------------------------------------------------------------------- families

ATTENTION = REGISTRY.add_family("attention", Attention, ("dims",))
POSITION = REGISTRY.add_family("position", Position, ("dims",))
NORM = REGISTRY.add_family("norm", Norm, ("width",))
FFN = REGISTRY.add_family("ffn", FeedForward, ("dims",))
BLOCK = REGISTRY.add_family("block", Block, ("dims", "layer"))
TOKENIZER = REGISTRY.add_family("tokenizer", Tokenizer)
DATASET = REGISTRY.add_family("dataset", Dataset)
OPTIMIZER = REGISTRY.add_family("optimizer", Optimizer)
SCHEDULE = REGISTRY.add_family("schedule", Schedule, ("max_iters",))

AttentionSpec = Annotated[Spec[Attention], ATTENTION]
PositionSpec = Annotated[Spec[Position], POSITION]
NormSpec = Annotated[Spec[Norm], NORM]
FeedForwardSpec = Annotated[Spec[FeedForward], FFN]
BlockSpec = Annotated[Spec[Block], BLOCK]
TokenizerSpec = Annotated[Spec[Tokenizer], TOKENIZER]
DatasetSpec = Annotated[Spec[Dataset], DATASET]
OptimizerSpec = Annotated[Spec[Optimizer], OPTIMIZER]
ScheduleSpec = Annotated[Spec[Schedule], SCHEDULE]
