"""The properties of initialisations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.check.cases import VOCAB
from minigpt.check.parameters import parameter_sets
from minigpt.check.properties.surroundings import other_seeds_and_clock, random_states_kept, refusals
from minigpt.check.property import NotTried, Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Context, Init
from minigpt.experiment import ModelSection
from minigpt.model import GPT, optimizer_of
from minigpt.registry import REGISTRY

_WIDTHS, _DEPTHS = (64, 128, 256), (2, 4, 8)
_UPDATES, _LEARNING_RATE = 4, 3e-3
_MOST_GROWTH = 0.3
"""Largest exponent of an activation's growth with width or depth; 0.5 and 1 are typical without a parametrisation."""


@dataclass(frozen=True)
class Case:
    """One test case for an initialisation.

    Attributes:
        params: Parameters that differ from the defaults.
        d_model: Width of the model.
        n_heads: Number of heads.
        n_layers: Number of layers.
        tied: Whether the output map is the embedding's table.
        seed: Seed of the weights.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    d_model: int = 64
    n_heads: int = 4
    n_layers: int = 2
    tied: bool = False
    seed: int = 0


def _cases(target: Target) -> list[Case]:
    base, *changed = parameter_sets(target)
    return [Case(base), Case(base, 96, 3, 3, True), *(Case(params, seed=number) for number, params in enumerate(changed))]


def _default(target: Target) -> list[Case]:
    return [Case(parameter_sets(target)[0])]


def _section(target: Target, case: Case) -> ModelSection:
    sizes = {"d_model": case.d_model, "n_heads": case.n_heads, "n_layers": case.n_layers, "block_size": 16, "dropout": 0.0}
    embedding = {"name": "table", "tied": case.tied}
    return ModelSection.model_validate({**sizes, "embedding": embedding, "init": target.spec(case.params)})


def _model(target: Target, case: Case) -> GPT:
    with refusals(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(case.seed)
        return GPT(_section(target, case), VOCAB)


def _init(model: GPT) -> Init:
    assert isinstance(model.init, Init)
    return model.init


@property_of("init", cases=_cases, quick=2)
@random_states_kept()
def weights(target: Target, case: Case) -> None:
    """Every weight is drawn, finite, and the same for the same seed of torch, and only for that."""
    first = _model(target, case)
    with other_seeds_and_clock():
        again = _model(target, case)
    other = _model(target, Case(case.params, case.d_model, case.n_heads, case.n_layers, case.tied, case.seed + 1))
    for (name, one), two, three in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        if not torch.isfinite(one).all():
            raise Violation(f"{name} has an initial value that is not finite", cause="a division by a size?")
        if not torch.equal(one, two):
            raise Violation(f"{name}: equal seeds give different values", cause="random numbers that are not torch's?")
        if _is_drawn(name, first) and torch.equal(one, three) and (one != 0).any():
            raise Violation(f"{name}: different seeds give equal values", cause="does it set a seed?")
    with torch.no_grad():
        for module in first.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.fill_(math.nan)
    _init(first).draw(first)
    for name, parameter in first.named_parameters():
        if _is_drawn(name, first) and parameter.isnan().any():
            raise Violation(f"{name} is not drawn", cause="does it visit every nn.Linear and nn.Embedding of the model?")


def _is_drawn(name: str, model: GPT) -> bool:
    """Whether a name is that of a linear map's or an embedding's weight."""
    module = model.get_submodule(name.rpartition(".")[0])
    return isinstance(module, nn.Linear | nn.Embedding) and name.endswith("weight")


class _Backwards(nn.Module):
    """The parts of a model in the opposite order, with the same names inside them."""

    def __init__(self, model: GPT):
        super().__init__()
        for name, child in reversed(list(model.named_children())):
            parts = nn.ModuleList(reversed(list(child))) if isinstance(child, nn.ModuleList) else child
            self.add_module(name, parts)


@property_of("init", cases=_cases, quick=2)
@random_states_kept()
def order(target: Target, case: Case) -> None:
    """The size of a tensor's initial values does not depend on the order in which modules are visited."""
    model = _model(target, case)
    sizes = {name: _size(parameter) for name, parameter in model.named_parameters() if parameter.numel() >= 256}
    torch.default_generator.manual_seed(case.seed)
    _init(model).draw(_Backwards(model))
    for name, parameter in model.named_parameters():
        if (
            name in sizes
            and math.isfinite(sizes[name])
            and not math.isclose(_size(parameter), sizes[name], rel_tol=0.25, abs_tol=1e-6)
        ):
            raise Violation(
                f"{name}: the deviation is {sizes[name]:.4g}, but {_size(parameter):.4g} if modules are visited in the "
                "opposite order",
                cause="does it count modules, or treat the first or the last one in another way?",
            )


def _size(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())


@property_of("init", cases=_cases, quick=2)
def factors(target: Target, case: Case) -> None:
    """All factors are finite and greater than 0, and depend only on the sizes and on the parameter's role and layer."""
    model = _model(target, case)
    init, again = _init(model), _init(_model(target, case))
    own = {"score": init.score_factor, "residual": init.residual_factor, "logit": init.logit_factor}
    for name, factor in own.items():
        if not (math.isfinite(factor) and factor > 0):
            raise Violation(f"the {name} factor is {factor}", cause="a division by a size, or a sign?")
    for parameter in model.named_roles():
        found = init.factors(parameter)
        for name, factor in vars(found).items():
            if not (math.isfinite(factor) and factor > 0):
                raise Violation(f"the factor on {name} for {parameter.name} is {factor}", cause="a division by a size?")
        if not found == init.factors(parameter) == again.factors(parameter):
            raise Violation(
                f"a second call, or a second instance, gives {parameter.name} other factors",
                cause="does it count calls, or draw random numbers?",
            )


@property_of("init", cases=_default)
@random_states_kept()
def transfer(target: Target, case: Case) -> None:
    """With a promise in `transfers`, activations change by the same size in the first updates at any width or depth.

    This is the coordinate check of muP (arXiv:2203.03466, appendix D.1).
    """
    promised = _init(_model(target, case)).transfers
    if not promised:
        raise NotTried("its `transfers` is empty")
    for what, sizes in (("width", _WIDTHS), ("depth", _DEPTHS)):
        if what not in promised:
            continue
        found = [_changes(target, case, what, size) for size in sizes]
        for place in found[0]:
            growth = _growth(sizes, [each[place] for each in found])
            if abs(growth) > _MOST_GROWTH:
                values = ", ".join(f"{each[place]:.3g}" for each in found)
                raise Violation(
                    f"{place} changes by {values} in {_UPDATES} updates at {what} {', '.join(map(str, sizes))}: it grows "
                    f"with the power {growth:.2f}",
                    cause="which factor on a learning rate, a deviation or an output is missing?",
                )


def _changes(target: Target, case: Case, what: str, size: int) -> dict[str, float]:
    """Root mean squares of the changes of the residual stream and of the logits, averaged over three seeds."""
    sums: dict[str, float] = {}
    for seed in range(3):
        sizes = (size, size // 16, 2) if what == "width" else (64, 4, size)
        model = _model(target, Case(case.params, *sizes, seed=seed))
        recipe = REGISTRY.resolve("optimizer", {"name": "adamw", "learning_rate": _LEARNING_RATE, "weight_decay": 0.0})
        optimizer = optimizer_of(recipe, model)
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, VOCAB, (8, 17), generator=generator)
        before = _activations(model, ids[:, :-1])
        for _ in range(_UPDATES):
            optimizer.zero_grad()
            torch.autograd.backward(model.loss(ids[:, :-1], ids[:, 1:])[0])
            optimizer.step()
        for place, after in _activations(model, ids[:, :-1]).items():
            sums[place] = sums.get(place, 0.0) + _size(after - before[place])
    return sums


@torch.no_grad()
def _activations(model: GPT, tokens: Tensor) -> dict[str, Tensor]:
    hidden, ctx = model.hidden(tokens)
    assert isinstance(ctx, Context)
    return {"the residual stream": ctx.outputs[-1], "a logit": model.logits(hidden)}


def _growth(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The exponent of a power law through the first and the last value."""
    return math.log(max(values[-1], 1e-12) / max(values[0], 1e-12)) / math.log(sizes[-1] / sizes[0])


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> str:
    """Return a digest of initial weights, outputs and factors.

    Raises:
        Unsuitable: The initialisation refuses these parameters.
    """
    model = _model(target, Case(params))
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    with torch.no_grad():
        digest.update(model(torch.arange(12)[None]).numpy().tobytes())
    digest.update(str([_init(model).factors(parameter) for parameter in model.named_roles()]).encode())
    return digest.hexdigest()
