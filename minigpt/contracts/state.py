"""The decoding state: a tree that follows the tree of components.

A plain `State` holds tensors of a fixed size (a recurrence's matrix, the last inputs of a convolution) and the states of
sub-components. A `Cache` grows: it holds an entry for each token, with its position. A `ModelState` is the root.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

S = TypeVar("S", bound="State")


@dataclass
class State:
    """The decoding state of one component and, through `children`, of its sub-components.

    A forward pass changes the state that it receives in place. In training it is used for one batch only, after earlier
    tokens that were read without gradients (`Batch.memory`).

    Attributes:
        tensors: Named tensors, batch first. So repeat, select and nbytes need no code in components.
        children: States of named sub-components.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    children: dict[str, State] = field(default_factory=dict)

    def select(self: S, rows: Int[Tensor, " rows"]) -> S:
        """The state of some sequences of the batch, in the given order; an index may occur more than once."""
        return self._with_rows(lambda tensor: tensor.index_select(0, rows))

    def repeat(self: S, times: int) -> S:
        """Repeat each sequence of the batch `times` times; the copies are neighbours."""
        return self._with_rows(lambda tensor: tensor.repeat_interleave(times, 0))

    @classmethod
    def join(cls: type[S], states: Sequence[S]) -> S:
        """Concatenate the batches of several states, in order.

        Raises:
            ValueError: Their lengths, components or capacities differ.
        """
        first = states[0]
        for other in states[1:]:
            first.check_alike(other)
        return replace(
            first.copy(),
            tensors={name: torch.cat([state.tensors[name] for state in states]) for name in first.tensors},
            children={
                name: type(child).join([state.children[name] for state in states]) for name, child in first.children.items()
            },
        )

    @property
    def truncatable(self) -> bool:
        """Whether `truncate` is possible: only in caches, because tensors of a fixed size cannot undo a token."""
        return not self.tensors and bool(self.children) and all(state.truncatable for state in self.children.values())

    def truncate(self, tokens: int) -> None:
        """Undo the last `tokens` tokens.

        Raises:
            ValueError: The state is not `truncatable`.
        """
        if not self.truncatable:
            raise ValueError("only complete caches can undo tokens; this state holds tensors of a fixed size, or a window")
        for state in self.children.values():
            state.truncate(tokens)

    @property
    def nbytes(self) -> int:
        """Bytes in use, buffers counted at full size."""
        own = sum(tensor.nbytes for tensor in self.tensors.values())
        return own + sum(state.nbytes for state in self.children.values())

    def copy(self: S) -> S:
        """A new node with the same tensors and children, and its own counters."""
        return replace(self)

    def check_alike(self, other: State) -> None:
        """Raise ValueError if the sequences of two states cannot share one state."""
        kinds = [
            (type(state), sorted(state.children), {name: tensor.shape[1:] for name, tensor in state.tensors.items()})
            for state in (self, other)
        ]
        if kinds[0] != kinds[1]:
            raise ValueError("states of different components or capacities cannot be joined")

    def _with_rows(self: S, change: Callable[[Tensor], Tensor]) -> S:
        return replace(
            self.copy(),
            tensors={name: change(tensor) for name, tensor in self.tensors.items()},
            children={name: state._with_rows(change) for name, state in self.children.items()},
        )


@dataclass
class Cache(State):
    """A state with an entry for each token so far (keys and values, or a latent) and its position.

    `kernels.attention.new_cache` makes it.

    Attributes:
        positions: Positions of the cached tokens: a buffer of which the first `length` entries are valid. Later entries
            are written in advance, because positions ascend by one.
        length: Entries in use.
        complete: Whether lowering `length` undoes the latest tokens. False with a window, which drops the earliest tokens,
            and if the component keeps anything else in this state that depends on all tokens.
    """

    positions: Int[Tensor, " capacity"] = field(kw_only=True)
    length: int = 0
    complete: bool = True

    @property
    def truncatable(self) -> bool:
        return self.complete and all(state.truncatable for state in self.children.values())

    def truncate(self, tokens: int) -> None:
        super().truncate(tokens)
        self.length -= tokens

    def copy(self) -> Cache:
        return replace(self, positions=self.positions.clone())

    def check_alike(self, other: State) -> None:
        super().check_alike(other)
        assert isinstance(other, Cache)
        _check_length(self.length, other.length)
        if not torch.equal(self.positions[: self.length], other.positions[: other.length]):
            raise ValueError("states with different positions cannot be joined")


@dataclass
class ModelState(State):
    """The root of the tree: the state of a whole model.

    Attributes:
        length: Number of tokens that the model has read.
    """

    length: int = 0

    def truncate(self, tokens: int) -> None:
        super().truncate(tokens)
        self.length -= tokens

    def check_alike(self, other: State) -> None:
        super().check_alike(other)
        assert isinstance(other, ModelState)
        _check_length(self.length, other.length)


def substate(state: State | None, name: str) -> State | None:
    """The state of the sub-component `name`, or None."""
    return None if state is None else state.children.get(name)


def _check_length(first: int, second: int) -> None:
    """Refuse different lengths: the sequences of a batch share their positions and length."""
    if first != second:
        raise ValueError(f"states at {first} and {second} tokens cannot be joined: advance both to the same length")
