"""The property that training can be interrupted: a checkpoint has all that a part remembers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

from minigpt.check.agreement import equal, run
from minigpt.check.cases import VOCAB, Case, any_case, positions_for
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import Subject, WholeModel, build, inputs
from minigpt.check.properties.sequence import PARTS
from minigpt.check.property import Violation, property_of
from minigpt.check.targets import Target
from minigpt.model import build_model_on_meta
from minigpt.model.gpt import after_step
from minigpt.run.packing import cpu_copy

_LONG = 1000
"""Further updates if a module remembers something that was not restored."""
_LARGE = 300_000
"""Parameters of an experiment from which on fewer updates are made."""
_RATE = 1e-3
_WITHOUT_EVALUATIONS = 8
"""Updates that are compared with those of a model that is not evaluated in between."""

Make = Callable[[bool], nn.Module]
"""Builds the model to train, or a fresh one of another seed, which a checkpoint is loaded into."""

Outputs = Callable[[nn.Module, int], Tensor]
"""Maps a model and a number, which determines inputs and torch's seed, to one vector of outputs."""


@dataclass(frozen=True)
class Interrupted(Case):
    """A case with a number of updates before the model is saved, and after it is loaded.

    Attributes:
        before: Updates before saving. It is a prime, because a period that divides it would not show.
        after: Updates after loading.
    """

    before: int = 5
    after: int = 3

    def shown(self, target: Target) -> list[str]:
        """Return the fields that affect a target. The model is in both modes in turn."""
        return [*(name for name in super().shown(target) if name != "training"), "before", "after"]


def _cases(target: Target) -> list[Interrupted]:
    """The defaults with many updates, and each parameter changed with a few."""
    if target.experiment is not None:
        size = target.experiment.model.block_size
        large = build_model_on_meta(target.experiment.model, VOCAB).n_parameters() > _LARGE
        before, after = (3, 2) if large else (31, 33)
        return [Interrupted(block_size=size, time=min(8, size), dropout=0.1, before=before, after=after)]
    base, *changed = parameter_sets(target)
    sizes: dict[str, Any] = {"n_heads": 4, "d_model": 16, "n_layers": 1, "time": 8, "dropout": 0.1}
    sizes["position"] = positions_for(target)[-1]
    many = Interrupted(base, before=59, after=61, **sizes)
    return [many, *(Interrupted(params, seed=number, **sizes) for number, params in enumerate(changed))]


def _any_case(target: Target) -> st.SearchStrategy[Interrupted]:
    def interrupted(case: Case, before: int, after: int) -> Interrupted:
        fields = {**vars(case), "time": min(case.time, 12), "updates": 0, "dropout": 0.1, "before": before, "after": after}
        return Interrupted(**fields)

    return st.builds(interrupted, any_case(target), st.sampled_from([1, 2, 5, 11, 23]), st.integers(1, 9))


@property_of(*PARTS, cases=_cases, strategy=_any_case, quick=1)
def resumable(target: Target, case: Interrupted) -> None:
    """Saved after any number of updates and loaded into a fresh model, it continues bit for bit, in both modes."""

    def make(fresh: bool) -> Subject:
        return build(target, replace(case, training=not fresh, seed=case.seed + fresh), initial=fresh)

    def outputs(subject: nn.Module, number: int) -> Tensor:
        assert isinstance(subject, Subject)
        x, tokens = inputs(subject, case, offset=number)
        if subject.training and target.experiment is not None:
            assert isinstance(subject, WholeModel)
            return torch.stack(_seeded(number, lambda: subject.model.loss(tokens, tokens.roll(-1, 1))))
        y = run(subject, x, tokens, seed=number, gradients=subject.training)
        return torch.cat((y.flatten(), subject.auxiliary().to(y.dtype)[None]))

    check_resumes(make, outputs, case.before, case.after)


def _seeded(seed: int, function: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return function()


def check_resumes(make: Make, outputs: Outputs, before: int, after: int) -> None:
    """Train a model with evaluations in between, save and load it in each mode, and compare what follows.

    Raises:
        Violation: Evaluations change the training, or a model that is loaded continues in another way.
    """
    whole, undisturbed = make(False), make(False)
    for number in range(before):
        y = _update(whole, outputs, number)
        if number < _WITHOUT_EVALUATIONS and not equal(y, _update(undisturbed, outputs, number)):
            _check_repeats(make, outputs, before)
            raise Violation(
                f"update {number + 1} of a model that is evaluated between updates differs from that of one that is not",
                at=number,
                cause="does a forward pass in eval mode change something that training uses?",
            )
        for repetition in range(number % 3):
            _evaluated(whole, outputs, number + repetition)
    number = before
    for saved_in, loaded_in in ((False, True), (True, False), (False, False), (True, True)):
        whole.train(saved_in)
        loaded = make(True).train(loaded_in)
        _load(loaded, _saved(whole), number)
        updates = after if (saved_in, loaded_in) == (True, True) else 1  # this is how a run is resumed
        difference = _first_difference(whole, loaded, outputs, number, updates)
        if difference is not None:
            _check_repeats(make, outputs, before)
            names = [] if saved_in and loaded_in else [f"saved in {_mode(saved_in)} mode, loaded in {_mode(loaded_in)} mode"]
            raise Violation(
                f"{'; '.join([*names, f'loaded into a fresh model after {number} updates'])}, {difference}",
                cause=_cause(whole, loaded),
            )
        number += updates


def _mode(training: bool) -> str:
    return "train" if training else "eval"


def _first_difference(whole: nn.Module, loaded: nn.Module, outputs: Outputs, number: int, updates: int) -> str | None:
    """Return how a loaded model differs from the saved one, now or in further updates; None if it does not."""
    if not equal(_evaluated(loaded, outputs, number), _evaluated(whole, outputs, number)):
        return "it computes something else in eval mode"
    long = _LONG if updates > 1 and next(_remembered(whole, loaded), None) is not None else 0
    for later in range(1, updates + long + 1):
        one, other = (_update(each, outputs, number + later) for each in (loaded, whole))
        if not equal(one, other):
            return f"its update {later} computes something else in train mode"
    pairs = zip(loaded.state_dict().items(), whole.state_dict().values(), strict=True)
    if (name := next((name for (name, one), other in pairs if not equal(one, other)), None)) is not None:
        return f"{name} differs after {updates + long} further updates"
    if not equal(_evaluated(loaded, outputs, number), _evaluated(whole, outputs, number)):
        return f"it computes something else in eval mode after {updates + long} further updates"
    return None


def _check_repeats(make: Make, outputs: Outputs, updates: int) -> None:
    """Check that two models with equal weights and updates are equal. Otherwise a comparison says nothing of checkpoints."""
    one, other = make(False), make(False)
    for number in range(updates):
        if not equal(_update(one, outputs, number), _update(other, outputs, number)):
            raise Violation(
                f"two models with equal weights and inputs differ in update {number + 1}",
                cause="a random number that is not torch's, the clock, or something shared through the class?",
            )


def _update(module: nn.Module, outputs: Outputs, number: int) -> Tensor:
    """Pass one or two micro-batches in train mode, and call `after_step`; the first and every fourth changes the weights."""
    learns = number % 4 == 0
    module.train()
    for part in range(1 + number % 2):
        with torch.set_grad_enabled(learns):
            y = outputs(module, 2 * number + part)
        if learns and y.requires_grad:
            weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(number))
            torch.autograd.backward((y * weights).sum())
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.data.sub_(_RATE * parameter.grad.nan_to_num().sgn())
            parameter.grad = None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)
        after_step(module)
    return y.detach()


@torch.no_grad()
def _evaluated(module: nn.Module, outputs: Outputs, number: int) -> Tensor:
    """Return the outputs in eval mode; the mode stays as it was."""
    training = module.training
    y = outputs(module.eval(), number)
    module.train(training)
    return y


def _saved(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights as they are read from a checkpoint file."""
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise Violation(
                f"{name} in its state_dict is a {type(value).__name__}, which cannot be saved",
                cause="a checkpoint has tensors only: does get_extra_state return one?",
            )
    return load(save({name: cpu_copy(value) for name, value in module.state_dict().items()}))


def _load(module: nn.Module, saved: Mapping[str, Tensor], number: int) -> None:
    dtypes = {name: value.dtype for name, value in module.state_dict().items()}
    try:
        module.load_state_dict(saved)
    except RuntimeError as error:
        raise Violation(
            f"saved after {number} updates, it cannot be loaded into a fresh model: {' '.join(str(error).split())}",
            cause="is a parameter or buffer registered, renamed or resized after the constructor?",
        ) from error
    if changed := [name for name, value in saved.items() if value.dtype != dtypes[name]]:
        raise Violation(
            f"{changed[0]} is saved as {saved[changed[0]].dtype} but built as {dtypes[changed[0]]}, which a run refuses",
            cause="is a buffer replaced by a tensor of another type?",
        )
    module.train(module.training)  # as minigpt does after loading


def _cause(whole: nn.Module, loaded: nn.Module) -> str:
    names = list(_remembered(whole, loaded))
    if names:
        return f"{', '.join(names[:3])}: neither a parameter nor a persistent buffer, so a checkpoint does not have it?"
    return "a count, a tensor or a generator that is neither a parameter nor a persistent buffer?"


def _remembered(whole: nn.Module, loaded: nn.Module) -> Iterator[str]:
    """Yield the names of attributes and unsaved buffers whose values were not restored."""
    kept = whole.state_dict()
    for name, buffer in whole.named_buffers():
        other = dict(loaded.named_buffers()).get(name)
        if name not in kept and (other is None or not equal(buffer, other)):
            yield name
    modules = dict(loaded.named_modules())
    for path, module in whole.named_modules():
        others = vars(modules[path]) if path in modules else {}
        for name, value in vars(module).items():
            if name not in _OF_TORCH and not _is_alike(value, others.get(name)):
                yield f"{path}.{name}".removeprefix(".")


_OF_TORCH = frozenset({*vars(nn.Module()), "losses"})
"""Attributes of every module, and the list of auxiliary losses of the probe."""


def _is_alike(one: object, other: object) -> bool:
    """Return whether two values are equal, as far as they can be compared."""
    match one, other:
        case Tensor(), Tensor():
            return equal(one, other)
        case torch.Generator(), torch.Generator():
            return torch.equal(one.get_state(), other.get_state())
        case (dict(), dict()):
            return one.keys() == other.keys() and all(_is_alike(value, other[key]) for key, value in one.items())
        case ((list() | tuple() | deque()), (list() | tuple() | deque())):
            return len(one) == len(other) and all(map(_is_alike, one, other))
        case ((bool() | int() | float() | str() | None), _):
            return type(one) is type(other) and one == other
    return type(one) is type(other)
