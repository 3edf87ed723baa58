"""The resolved components of each layer: the entries of `model.layers` merged with the model's choices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minigpt.experiment import LayerSection, ModelSection
from minigpt.registry import REGISTRY, Spec

_FAMILIES = tuple(LayerSection.model_fields)


@dataclass(frozen=True)
class Choice:
    """A component of some layers that differs from the model's.

    Attributes:
        family: Such as `attention`.
        name: The component.
        replaces: The model's component if its name differs; None if it is the same.
        changed: Parameters that differ from the model's; for another component, from its defaults.
        kept: Parameters from the model's component that the entry did not set and that are not defaults.
    """

    family: str
    name: str
    replaces: str | None
    changed: Mapping[str, Any]
    kept: Mapping[str, Any]

    def __str__(self) -> str:
        """Text such as `gqa, but window 64; kept from model.attention: n_kv_heads 2`."""
        text = self.name if self.replaces is None else f"{self.name} in place of {self.replaces}"
        if self.changed:
            text += f"{', but' if self.replaces is None else ':'} {_listed(self.changed)}"
        return text + (f"; kept from model.{self.family}: {_listed(self.kept)}" if self.kept else "")


def layer_choices(model: ModelSection) -> list[tuple[list[int], list[Choice]]]:
    """Groups of equal layers, ordered by first layer, with their differences from the model's choices."""
    groups: list[tuple[list[Spec[Any]], list[int]]] = []
    for index in range(model.n_layers):
        specs = _specs(model, index)
        alike = next((layers for others, layers in groups if others == specs), None)
        if alike is None:
            groups.append((specs, [index]))
        else:
            alike.append(index)
    return [(layers, _choices(model, specs)) for specs, layers in groups]


def spans(numbers: list[int]) -> str:
    """Ascending numbers with abbreviated runs: `0–2, 4`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _specs(model: ModelSection, index: int) -> list[Spec[Any]]:
    layer = model.layer(index)
    return [getattr(layer, family) for family in _FAMILIES]


def _choices(model: ModelSection, specs: list[Spec[Any]]) -> list[Choice]:
    own = [getattr(model, family) for family in _FAMILIES]
    return [_choice(spec, other) for spec, other in zip(specs, own, strict=True) if spec != other]


def _choice(spec: Spec[Any], own: Spec[Any]) -> Choice:
    params, default = _params(spec), _defaults(spec)
    unusual = {key: value for key, value in params.items() if key not in default or value != default[key]}
    if spec.name != own.name:
        return Choice(spec.family, spec.name, own.name, unusual, {})
    of_model = _params(own)
    changed = {key: value for key, value in params.items() if value != of_model[key]}
    kept = {key: value for key, value in unusual.items() if key not in changed}
    return Choice(spec.family, spec.name, None, changed, kept)


def _params(spec: Spec[Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.to_json().items() if key != "name"}


def _defaults(spec: Spec[Any]) -> dict[str, Any]:
    """The default of every parameter that has one."""
    fields = REGISTRY.entry(spec.family, spec.name).params.model_fields
    needed = {key: value for key, value in _params(spec).items() if fields[key].is_required()}
    filled = _params(REGISTRY.resolve(spec.family, {"name": spec.name, **needed}))
    return {key: value for key, value in filled.items() if key not in needed}


def _listed(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in params.items())
