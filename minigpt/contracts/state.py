"""What decoding must remember: a tree of states that follows the tree of components.

A plain `State` holds tensors of a fixed size (a recurrence's matrix, the last inputs of a convolution) and the states of
sub-components. A `Cache` grows: it holds something for each token, with its position. A `ModelState` is the root.
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
    """What decoding must remember, for one component or, through `children`, for a tree of them.

    It is changed in place by the forward pass that receives it, and only without gradients.

    Attributes:
        tensors: Named tensors, batch first, so that repeat, select and nbytes are written once, here.
        children: States of named sub-components.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    children: dict[str, State] = field(default_factory=dict)

    def select(self: S, rows: Int[Tensor, " rows"]) -> S:
        """The state of some sequences of the batch, in the given order; a row may be asked for more than once."""
        return self._with_rows(lambda tensor: tensor.index_select(0, rows))

    def repeat(self: S, times: int) -> S:
        """Each sequence of the batch `times` times in a row."""
        return self._with_rows(lambda tensor: tensor.repeat_interleave(times, 0))

    @classmethod
    def join(cls: type[S], states: Sequence[S]) -> S:
        """One state for the sequences of several, in their order.

        Raises:
            ValueError: They are at different tokens, or were not made for the same components and capacity.
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
        """Whether `truncate` is possible: tensors of a fixed size cannot undo a token, so only caches can."""
        return not self.tensors and bool(self.children) and all(state.truncatable for state in self.children.values())

    def truncate(self, tokens: int) -> None:
        """Undo the last `tokens` tokens; only where `truncatable`."""
        for state in self.children.values():
            state.truncate(tokens)

    @property
    def nbytes(self) -> int:
        """Bytes held, buffers counted whole."""
        own = sum(tensor.nbytes for tensor in self.tensors.values())
        return own + sum(state.nbytes for state in self.children.values())

    def copy(self: S) -> S:
        """The same node, sharing tensors and children; what it counts is its own."""
        return replace(self)

    def check_alike(self, other: State) -> None:
        """Raises ValueError where two states cannot hold their sequences in one."""
        kinds = [
            (type(state), sorted(state.children), {name: tensor.shape[1:] for name, tensor in state.tensors.items()})
            for state in (self, other)
        ]
        if kinds[0] != kinds[1]:
            raise ValueError("states of other components, or for another capacity, cannot be joined")

    def _with_rows(self: S, change: Callable[[Tensor], Tensor]) -> S:
        return replace(
            self.copy(),
            tensors={name: change(tensor) for name, tensor in self.tensors.items()},
            children={name: state._with_rows(change) for name, state in self.children.items()},
        )


@dataclass
class Cache(State):
    """Something for each token so far (keys and values, or a latent), with its position; made by `new_cache`.

    Attributes:
        positions: Of the remembered tokens: a buffer of which `length` entries count, written ahead as positions ascend by
            one.
        length: Entries in use.
        complete: Whether lowering `length` undoes the latest tokens. Not with a window, which drops the earliest ones, and
            not where a component keeps anything in the same state that depends on all tokens.
    """

    positions: Int[Tensor, " capacity"] = field(kw_only=True)
    length: int = 0
    complete: bool = True

    @property
    def truncatable(self) -> bool:
        return self.complete and all(state.truncatable for state in self.children.values())

    def truncate(self, tokens: int) -> None:
        self.length -= tokens
        super().truncate(tokens)

    def copy(self) -> Cache:
        return replace(self, positions=self.positions.clone())

    def check_alike(self, other: State) -> None:
        super().check_alike(other)
        assert isinstance(other, Cache)
        _check_length(self.length, other.length)
        if not torch.equal(self.positions[: self.length], other.positions[: other.length]):
            raise ValueError("states that remember other positions cannot be joined")


@dataclass
class ModelState(State):
    """The root of the tree: what a whole model remembers.

    Attributes:
        length: Tokens that the model has read.
    """

    length: int = 0

    def truncate(self, tokens: int) -> None:
        self.length -= tokens
        super().truncate(tokens)

    def check_alike(self, other: State) -> None:
        super().check_alike(other)
        assert isinstance(other, ModelState)
        _check_length(self.length, other.length)


def substate(state: State | None, name: str) -> State | None:
    """The part of a state that belongs to the sub-component `name`, if there is any."""
    return None if state is None else state.children.get(name)


def _check_length(first: int, second: int) -> None:
    """Positions and length are one for all rows, so sequences of different lengths cannot share a state."""
    if first != second:
        raise ValueError(f"states at {first} and {second} tokens cannot be joined: let them reach the same one")
