"""What every part of a model must satisfy as a module: live weights, seeds, copies, no hidden inputs, compilation."""

from __future__ import annotations

import contextlib
import copy
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from minigpt.check.agreement import ANOTHER, distance, run
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import Case, Subject, WholeModel, build, inputs, positions_for
from minigpt.check.properties.sequence import PARTS
from minigpt.check.properties.surroundings import elsewhere
from minigpt.check.property import NotTried, Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Cache, State


def _two_cases(target: Target) -> list[Case]:
    """The defaults, in both modes."""
    if target.experiment is not None:
        size = target.experiment.model.block_size
        return [Case(block_size=size, time=min(24, size), training=mode) for mode in (False, True)]
    base, position = parameter_sets(target)[0], positions_for(target)[-1]
    return [Case(base, 4, 4, 16, time=24, position=position, training=mode, seed=int(mode)) for mode in (False, True)]


def _one_case(target: Target) -> list[Case]:
    return _two_cases(target)[:1]


@property_of(*PARTS, cases=_one_case, quick=2)
def liveness(target: Target, case: Case) -> None:
    """Every parameter gets a finite gradient that is not zero."""
    plain: set[str] = set()  # names that the defaults have
    alive: set[str] = set()
    of_name: dict[str, Case] = {}
    for number, params in enumerate(parameter_sets(target)):
        tried = replace(case, params=params, batch=4, training=True)
        try:
            living, dead = _living(target, tried)
        except Unsuitable:
            if number == 0:
                raise
            continue
        if number == 0:
            plain = living | dead
            if dead:
                raise _dead(sorted(dead), params)
        alive |= living
        of_name |= {name: tried for name in dead if name not in of_name}
    # A setting may silence what the defaults bring to life, such as a window of one token its queries; but what it adds
    # must live in some setting.
    never = sorted(set(of_name) - alive - plain)
    if never:
        raise _dead(never, dict(of_name[never[0]].params))


def _dead(names: Sequence[str], params: dict[str, object]) -> Violation:
    with_what = f" with {params}" if params else ""
    return Violation(
        f"{', '.join(names[:4])}{' and others' if len(names) > 4 else ''}: a gradient of zero, or none{with_what}",
        cause="is it used in forward? is there a detach(), a no_grad(), a round() or an argmax() on the way?",
    )


def _living(target: Target, case: Case) -> tuple[set[str], set[str]]:
    """Names of the target's own parameters that get a gradient, and of those that get none with any of three seeds."""
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
                    cause="a root, a logarithm or a quotient at zero, perhaps behind a where()?",
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


@property_of(*PARTS, cases=_two_cases, quick=2)
def determinism(target: Target, case: Case) -> None:
    """Outputs follow from weights and inputs: no random numbers, no clock and no earlier pass; in training, the seed."""
    subject = build(target, case)
    x, tokens = inputs(subject, case)
    other, other_tokens = inputs(subject, case, offset=1)
    if case.training:
        _check_seeded(build(target, replace(case, dropout=0.3)), x, tokens)
        return
    first = run(subject, x, tokens)
    before = torch.get_rng_state()
    with torch.no_grad():
        subject(x, tokens)
    if not torch.equal(before, torch.get_rng_state()):
        torch.set_rng_state(before)
        raise Violation("in eval mode it draws random numbers", cause="a dropout without training=self.training?")
    with elsewhere():
        again = run(subject, x, tokens, seed=1)
    if not torch.equal(first, again):
        raise Violation(
            "in eval mode equal inputs give other outputs when random seeds and the clock are others",
            size=distance(again, first),
            cause="a random number or time.time() in forward?",
        )
    run(subject, other, other_tokens)
    if not torch.equal(first, run(subject, x, tokens)):
        raise Violation(
            "equal inputs give other outputs after another sequence has passed",
            cause="does forward store something on the module?",
        )
    subject.train()
    run(subject, 3 * other + 1, other_tokens)
    subject.eval()
    if not torch.equal(first, run(subject, x, tokens)):
        raise Violation(
            "equal inputs give other outputs in eval mode after a forward pass in train mode",
            cause="running statistics, as in batch normalisation?",
        )


def _check_seeded(subject: Subject, x: Tensor, tokens: Tensor) -> None:
    first = run(copy.deepcopy(subject), x, tokens)
    with elsewhere():
        for _ in range(8):
            again = run(copy.deepcopy(subject), x, tokens)
            if not torch.equal(first, again):
                raise Violation(
                    "in train mode equal torch seeds give other outputs",
                    size=distance(again, first),
                    cause="random numbers of Python or numpy, or the clock? torch's seed is what a run keeps",
                )


@property_of(*PARTS, cases=_one_case)
def weights(target: Target, case: Case) -> None:
    """Equal seeds give equal weights; saved and loaded weights, and a copy, give equal outputs."""
    one, two = build(target, case, initial=True), build(target, case, initial=True)
    for (name, value), (_, other) in zip(_tensors(one), _tensors(two), strict=True):
        if not torch.equal(value, other):
            raise Violation(f"{name}: equal seeds give other initial values", cause="random numbers that are not torch's?")
    subject = build(target, case)
    x, tokens = inputs(subject, case)
    first = run(subject, x, tokens)
    another = build(target, replace(case, seed=case.seed + 1))
    loaded = copy.deepcopy(another)
    loaded.load_state_dict(copy.deepcopy(subject.state_dict()))
    if not torch.equal(run(loaded, x, tokens), first):
        raise Violation(
            "saved weights, loaded into a model of another seed, give other outputs",
            cause="a tensor that is neither a parameter nor a buffer, or a buffer that is not persistent?",
        )
    copied = copy.deepcopy(subject)
    if not torch.equal(run(copied, x, tokens), first):
        raise Violation("a deep copy gives other outputs", cause="an attribute that is not copied?")
    copied.load_state_dict(copy.deepcopy(another.state_dict()))
    if not torch.equal(run(copied, x, tokens), run(another, x, tokens)):
        raise Violation(
            "a deep copy does not follow its own weights",
            cause="a function that closes over self, or a second reference to a tensor?",
        )
    if not torch.equal(run(subject, x, tokens), first):
        raise Violation("a change to a deep copy changes the original", cause="a tensor shared through the class?")


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


@property_of(*PARTS, cases=_one_case)
def device(target: Target, case: Case) -> None:
    """Tensors are made on the device of the input."""
    subject = build(target, case)
    x, tokens = inputs(subject, case)
    try:
        with torch.device("meta"):
            build(target, case, initial=True)
    except RuntimeError as error:
        raise Violation(
            f"it cannot be built without memory, which reading an experiment does: {str(error).splitlines()[0]}",
            cause="does the constructor read numbers out of a tensor?",
        ) from error
    meta = copy.deepcopy(subject).to("meta")
    _check_state_device(meta.new_state(1, 8, x.dtype))
    try:
        y = run(meta, x.to("meta"), tokens.to("meta"))
    except NotImplementedError as error:
        raise NotTried("which shapes it computes depends on values: not without a second device") from error
    except RuntimeError as error:
        if "device" not in str(error):
            raise NotTried("it cannot be run without values: not without a second device") from error
        raise Violation(
            f"tensors of two devices meet: {str(error).splitlines()[0]}",
            cause="torch.zeros, arange or tensor without device=x.device, or a tensor that is no buffer?",
        ) from error
    if y.device.type != "meta":
        raise Violation(f"inputs on the device meta become outputs on {y.device}", cause="a .cpu() on the way?")


def _check_state_device(state: State) -> None:
    tensors = [*state.tensors.values(), *([state.positions] if isinstance(state, Cache) else [])]
    if any(tensor.device.type != "meta" for tensor in tensors):
        raise Violation("a state is not on the device that was asked for", cause="new_state without device=device?")
    for child in state.children.values():
        _check_state_device(child)


@property_of(*PARTS, cases=_one_case)
def compile(target: Target, case: Case) -> None:
    """What torch.compile traces computes what eager mode does."""
    _check_compiled(target, case, "aot_eager")


@property_of(*PARTS, cases=_one_case, thorough=True)
def inductor(target: Target, case: Case) -> None:
    """torch.compile's own code computes what eager mode does."""
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
    with _quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        other = module(*arguments)
        torch.manual_seed(0)
        one = compiled(*arguments)
    if distance(one, other) > ANOTHER:
        raise Violation(
            "compiled, it gives other outputs",
            size=distance(one, other),
            cause="Python side effects in forward, or a path that asks whether it is being compiled?",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The compiler's remarks on graph breaks are no business of a check's."""
    logger = logging.getLogger("torch._dynamo")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
