"""The properties of all parts as modules: trained weights, seeds, copies, devices, compilation."""

from __future__ import annotations

import contextlib
import copy
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from minigpt.check.agreement import OTHER_PATH, distance, run
from minigpt.check.cases import Case, positions_for
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import Subject, WholeModel, build, inputs
from minigpt.check.properties.keeping import check_seeds
from minigpt.check.properties.sequence import PARTS
from minigpt.check.property import NotTried, Unsuitable, Violation, property_of, trying
from minigpt.check.targets import Target
from minigpt.contracts import Cache, State


def _one_case(target: Target) -> list[Case]:
    """Return the defaults in eval mode."""
    if target.experiment is not None:
        size = target.experiment.model.block_size
        return [Case(block_size=size, time=min(24, size))]
    return [Case(parameter_sets(target)[0], 4, 4, 16, time=24, position=positions_for(target)[-1])]


@property_of(*PARTS, cases=_one_case, quick=2)
def liveness(target: Target, case: Case) -> None:
    """Every parameter gets a finite gradient that is not zero."""
    default_names: set[str] = set()  # parameters that exist with the defaults
    living_names: set[str] = set()
    first_dead_case: dict[str, Case] = {}
    for number, params in enumerate(parameter_sets(target)):
        tried = replace(case, params=params, batch=4, training=True)
        try:
            with trying(tried):
                living, dead = _living_and_dead(target, tried)
        except Unsuitable:
            if number == 0:
                raise
            continue
        if number == 0:
            default_names = living | dead
            if dead:
                with trying(tried):
                    raise _no_gradient(sorted(dead))
        living_names |= living
        first_dead_case |= {name: tried for name in dead if name not in first_dead_case}
    # A setting may cut off default parameters (a window of one token cuts off the queries). But a parameter that a setting
    # adds must get a gradient in at least one setting.
    never_living = sorted(set(first_dead_case) - living_names - default_names)
    if never_living:
        with trying(first_dead_case[never_living[0]]):
            raise _no_gradient(never_living)


def _no_gradient(names: Sequence[str]) -> Violation:
    return Violation(
        f"{', '.join(names[:4])}{' and others' if len(names) > 4 else ''}: a gradient of zero, or none",
        cause="is it used in forward? is there a detach(), no_grad(), round() or argmax() after it?",
    )


def _living_and_dead(target: Target, case: Case) -> tuple[set[str], set[str]]:
    """Return the target's parameters (names) with a gradient, and those without one for three seeds."""
    living: set[str] = set()
    names: set[str] = set()
    for seed in range(case.seed, case.seed + 3):
        subject = build(target, replace(case, seed=seed))
        if not any(parameter.requires_grad for parameter in subject.own_parameters().values()):
            break
        loss = _loss(subject, case)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        for name, parameter in subject.own_parameters().items():
            if not parameter.requires_grad:
                continue
            names.add(name)
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise Violation(
                    f"{name} gets a gradient that is not finite",
                    cause="a root, a logarithm or a division at zero, perhaps behind a where()?",
                )
            if parameter.grad is not None and (parameter.grad != 0).any():
                living.add(name)
        if living == names:
            break
    return living, names - living


def _loss(subject: Subject, case: Case) -> Tensor:
    x, tokens = inputs(subject, case)
    if isinstance(subject, WholeModel) and isinstance(subject.part_of[0], type(subject.model)):
        loss, auxiliary = subject.model.loss(tokens, tokens.roll(-1, 1))
        return loss + auxiliary
    y = run(subject, x, tokens, gradients=True)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(case.seed))
    return (y * weights).sum() + subject.auxiliary()


@property_of(*PARTS, cases=_one_case)
def weights(target: Target, case: Case) -> None:
    """Seeds determine the weights; reloaded weights and a deep copy give equal outputs."""
    check_seeds(target, case)
    one, two = build(target, case, initial=True), build(target, case, initial=True)
    for (name, value), (_, other) in zip(_tensors(one), _tensors(two), strict=True):
        if not torch.equal(value, other):
            raise Violation(f"{name}: equal seeds give different initial values", cause="random numbers not from torch?")
    subject = build(target, case)
    x, tokens = inputs(subject, case)
    first = run(subject, x, tokens)
    another = build(target, replace(case, seed=case.seed + 1))
    loaded = copy.deepcopy(another)
    _load(loaded, subject)
    if not torch.equal(run(loaded, x, tokens), first):
        raise Violation(
            "saved weights give other outputs when loaded into a model of another seed",
            cause="a tensor that is neither a parameter nor a buffer, or a buffer that is not persistent?",
        )
    copied = copy.deepcopy(subject)
    if not torch.equal(run(copied, x, tokens), first):
        raise Violation("a deep copy gives other outputs", cause="an attribute that is not copied?")
    _load(copied, another)
    if not torch.equal(run(copied, x, tokens), run(another, x, tokens)):
        raise Violation(
            "a deep copy does not use its own weights",
            cause="a function that closes over self, or a second reference to a tensor?",
        )
    if not torch.equal(run(subject, x, tokens), first):
        raise Violation("a change to a deep copy changes the original", cause="a tensor shared through the class?")


def _load(module: nn.Module, other: nn.Module) -> None:
    """Load another module's weights and set the mode, as a run does: until then a part may keep something of eval mode."""
    module.load_state_dict(copy.deepcopy(other.state_dict()))
    module.train().eval()


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


@property_of(*PARTS, cases=_one_case)
def device(target: Target, case: Case) -> None:
    """Tensors are created on the device of the input."""
    subject = build(target, case)
    x, tokens = inputs(subject, case)
    try:
        with torch.device("meta"):
            build(target, case, initial=True)
    except RuntimeError as error:
        raise Violation(
            f"it cannot be built on the meta device, as reading an experiment requires: {str(error).splitlines()[0]}",
            cause="does the constructor read values from a tensor?",
        ) from error
    meta = copy.deepcopy(subject).to("meta")
    _check_state_device(meta.new_state(1, 8, x.dtype))
    try:
        y = run(meta, x.to("meta"), tokens.to("meta"))
    except NotImplementedError as error:
        raise NotTried("its shapes depend on values, so this needs a second device") from error
    except RuntimeError as error:
        if "device" not in str(error):
            raise NotTried("it cannot run on the meta device, so this needs a second device") from error
        raise Violation(
            f"it mixes tensors of two devices: {str(error).splitlines()[0]}",
            cause="torch.zeros, arange or tensor without device=x.device, or a tensor that is not a buffer?",
        ) from error
    if y.device.type != "meta":
        raise Violation(f"inputs on the device meta give outputs on {y.device}", cause="a .cpu() in forward?")


def _check_state_device(state: State) -> None:
    tensors = [*state.tensors.values(), *([state.positions] if isinstance(state, Cache) else [])]
    if any(tensor.device.type != "meta" for tensor in tensors):
        raise Violation("a state is not on the requested device", cause="new_state without device=device?")
    for child in state.children.values():
        _check_state_device(child)


@property_of(*PARTS, cases=_one_case)
def compile(target: Target, case: Case) -> None:
    """The graph that torch.compile traces gives the same outputs as eager mode."""
    _check_compiled(target, case, "aot_eager")


@property_of(*PARTS, cases=_one_case, thorough=True)
def inductor(target: Target, case: Case) -> None:
    """The code that torch.compile generates gives the same outputs as eager mode."""
    if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++", "cl")):
        raise NotTried("no C++ compiler is installed")
    _check_compiled(target, case, "inductor")


def _check_compiled(target: Target, case: Case, backend: str) -> None:
    subject = build(target, case)
    module: nn.Module = subject.model if isinstance(subject, WholeModel) else subject
    torch._dynamo.reset()
    compiled = torch.compile(module, backend=backend)

    x, tokens = inputs(subject, case)
    arguments = (x, tokens) if module is subject else (tokens,)
    with _compiler_warnings_off(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        other = module(*arguments)
        torch.manual_seed(0)
        one = compiled(*arguments)
    if distance(one, other) > OTHER_PATH:
        raise Violation(
            "the compiled module gives other outputs",
            size=distance(one, other),
            cause="Python side effects in forward, or another path when compiling?",
        )


@contextlib.contextmanager
def _compiler_warnings_off() -> Iterator[None]:
    """Hide the compiler's warnings about graph breaks, which are irrelevant to a check."""
    logger = logging.getLogger("torch._dynamo")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
