"""Refusals of components that would silently ignore what another one, or a batch, asks of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from minigpt.contracts import Attention, Component, Init, Position
from minigpt.errors import ExperimentError, Problem, listing
from minigpt.registry import Spec


def refuse_ignored_hooks(block: nn.Module, layer: int, position: Position, spec: Spec[Position]) -> None:
    """Refuse a mixer that would ignore its layer's position.

    Raises:
        ExperimentError: A mixer does not use one of the position's hooks.
    """
    for module in _outermost_mixers(block):
        unused = position.hooks - {"embed"} - module.uses
        if unused:
            text = (
                f"{type(module).__name__} (layer {layer}) does not apply {listing(unused)} of position "
                f'"{spec.name}"; choose a position that it can use, such as "none"'
            )
            raise ExperimentError([Problem((spec.where,), text)])


def refuse_ignored_factor(block: nn.Module, layer: int, head_dim: int, spec: Spec[Init], factor: float) -> None:
    """Refuse a mixer that would ignore the initialisation's factor on attention scores.

    Raises:
        ExperimentError: The factor is not 1, and a mixer does not use it.
    """
    for module in _outermost_mixers(block):
        if factor != 1 and "score_factor" not in module.uses:
            text = (
                f"{type(module).__name__} (layer {layer}) does not apply factor {factor:.3g} on attention scores of init "
                f'"{spec.name}"; choose another mixer, or a factor of 1 (mup and completep: base_head_dim {head_dim})'
            )
            raise ExperimentError([Problem((spec.where,), text)])


def _outermost_mixers(module: nn.Module) -> Iterator[Attention]:
    """Mixers inside `module` that are not inside another mixer."""
    for child in module.children():
        if isinstance(child, Attention):
            yield child
        else:
            yield from _outermost_mixers(child)


def across_segments(root: nn.Module) -> Iterator[str]:
    """Names of components that may look into another segment: mixers, and others with a state, that do not use segments."""
    for name, module in root.named_modules():
        looks_back = isinstance(module, Attention) or (
            isinstance(module, Component) and type(module).new_state is not Component.new_state
        )
        if looks_back and "segments" not in module.uses and not name.startswith("objective"):
            yield name


def refuse_across_segments(model: nn.Module) -> None:
    """Refuse a batch with segments if a component may look across them.

    Raises:
        ExperimentError: There is such a component.
    """
    for name in across_segments(model):
        text = f"{name} ({type(model.get_submodule(name)).__name__}) cannot keep the segments of a row apart"
        raise ExperimentError([Problem(("training.batching",), f"{text}; choose another component")])


def refuse_positions_of_rows(positions: Iterable[nn.Module]) -> None:
    """Refuse a batch with positions if a position component would ignore them.

    A relative one may ignore them, because they ascend by one in each segment.

    Raises:
        ExperimentError: One of them is added without `per_row`, or has rotations or biases and is not relative.
    """
    for each in positions:
        assert isinstance(each, Position)
        is_added = "embed" in each.hooks
        if (is_added and not each.per_row) or (each.hooks - {"embed"} and not each.relative):
            text = f"{type(each).__name__} cannot use other positions in each row; choose another model.position"
            raise ExperimentError([Problem(("training.batching",), f'{text}, such as "learned" or "rope"')])
