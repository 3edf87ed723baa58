"""What decoding must remember."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass
class State:
    """What decoding must remember, for one component or, through `children`, for a tree of them.

    It is changed in place by the forward pass that receives it, and only without gradients.

    Attributes:
        tensors: Named tensors, batch first, so that repeat, select and nbytes are written once, here.
        positions: Positions of the remembered keys (a buffer of which `length` entries count, written ahead as positions
            ascend by one); None for a recurrence.
        length: Entries in use; in a model's own state, the number of tokens it has consumed.
        children: States of named sub-components.
        forgets: Whether the last tokens are gone when `length` is that much smaller: so it is for a cache of all that came.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    positions: Tensor | None = None
    length: int = 0
    children: dict[str, State] = field(default_factory=dict)
    forgets: bool = False

    def select(self, rows: Int[Tensor, " rows"]) -> State:
        """The state of some sequences of the batch, in the given order; a row may be asked for more than once."""
        return State(
            {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()},
            None if self.positions is None else self.positions.clone(),
            self.length,
            {name: state.select(rows) for name, state in self.children.items()},
            self.forgets,
        )

    def repeat(self, times: int) -> State:
        """Each sequence of the batch `times` times in a row."""
        return State(
            {name: tensor.repeat_interleave(times, 0) for name, tensor in self.tensors.items()},
            None if self.positions is None else self.positions.clone(),
            self.length,
            {name: state.repeat(times) for name, state in self.children.items()},
            self.forgets,
        )

    @classmethod
    def join(cls, states: Sequence[State]) -> State:
        """One state for the sequences of several, in their order.

        Raises:
            ValueError: They do not stand at the same place, or were not made for the same capacity.
        """
        first = states[0]
        for other in states[1:]:
            _check_alike(first, other)
        return cls(
            {name: torch.cat([state.tensors[name] for state in states]) for name in first.tensors},
            None if first.positions is None else first.positions.clone(),
            first.length,
            {name: cls.join([state.children[name] for state in states]) for name in first.children},
            first.forgets,
        )

    @property
    def can_forget(self) -> bool:
        """Whether `forget` is possible: every part that holds anything is a cache that forgets."""
        holds_only_children = bool(self.children) and not self.tensors
        return (self.forgets or holds_only_children) and all(state.can_forget for state in self.children.values())

    def forget(self, tokens: int) -> None:
        """Be as before the last `tokens` tokens; only where `can_forget`."""
        if self.length:  # a state that only has children counts nothing
            self.length -= tokens
        for state in self.children.values():
            state.forget(tokens)

    @property
    def nbytes(self) -> int:
        """Bytes held, buffers counted whole."""
        own = sum(tensor.nbytes for tensor in self.tensors.values())
        return own + sum(state.nbytes for state in self.children.values())


def substate(state: State | None, name: str) -> State | None:
    """The part of a state that belongs to the sub-component `name`, if there is any."""
    return None if state is None else state.children.get(name)


def _check_alike(first: State, other: State) -> None:
    """Positions and length are one for all rows, so sequences of different lengths cannot share a state."""
    if first.length != other.length:
        raise ValueError(
            f"states at {first.length} and {other.length} tokens cannot be joined: let them stand at the same one"
        )
    places = [None if state.positions is None else state.positions[: state.length] for state in (first, other)]
    if (places[0] is None) != (places[1] is None) or (
        places[0] is not None and places[1] is not None and not torch.equal(places[0], places[1])
    ):
        raise ValueError("states that remember other positions cannot be joined")
    kinds = [
        (sorted(state.children), {name: tensor.shape[1:] for name, tensor in state.tensors.items()})
        for state in (first, other)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError("states of other components, or for another capacity, cannot be joined")
