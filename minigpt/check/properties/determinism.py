"""The property that a part computes the same each time, and with it the more basic reasons of other failures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from minigpt.check.agreement import distance, draws, equal, run
from minigpt.check.cases import UPDATES, Case, any_case, positions_for
from minigpt.check.parameters import further_choices, parameter_sets
from minigpt.check.probe import Subject, build, copied, inputs
from minigpt.check.properties.sequence import PARTS, check_finite
from minigpt.check.properties.surroundings import other_seeds_and_clock
from minigpt.check.property import Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Attention, Block, Context, Embedding, FeedForward, Norm


def _cases(target: Target) -> list[Case]:
    """Return the defaults and each parameter changed, in both modes, and the defaults after updates.

    What is random may depend on a parameter, or on a count of updates.
    """
    modes = (False, True)
    if target.experiment is not None:
        size = target.experiment.model.block_size
        cases = [Case(block_size=size, time=min(24, size), training=mode) for mode in modes]
        return [*cases, replace(cases[0], updates=UPDATES)]
    position = positions_for(target)[-1]
    cases = [
        Case(params, 4, 4, 16, time=24, position=position, training=mode, dropout=0.3 if mode else 0.0, seed=int(mode))
        for params in [*parameter_sets(target), *further_choices(target)]
        for mode in modes
    ]
    return [*cases, *(replace(case, updates=UPDATES) for case in cases[:2])]


@property_of(*PARTS, cases=_cases, strategy=any_case, quick=1000)  # all cases: other properties need what this one tests
def determinism(target: Target, case: Case) -> None:
    """Outputs depend only on weights and inputs, and in training on torch's seed; the inputs are not changed."""
    subject = build(target, case)
    x, tokens = inputs(subject, case)
    _check_inputs_kept(copied(subject), x, tokens)
    _check_repeated(subject, case)
    if case.training:
        _check_seeded(subject, x, tokens)
    else:
        _check_evaluation(subject, case)


def check_reasons(target: Target, case: object) -> None:
    """Raise the more basic reason for a failure in this case, if there is one.

    What is random, remembers, changes its input or is not finite breaks other properties too, with misleading messages.

    Raises:
        Violation: The reason.
    """
    if not isinstance(case, Case):
        return
    for training in dict.fromkeys((case.training, False)):
        tried = replace(case, training=training)
        determinism(target, tried)
        subject = build(target, tried)
        check_finite(run(subject, *inputs(subject, tried)), "ordinary inputs")


def _check_inputs_kept(subject: Subject, x: Tensor, tokens: Tensor) -> None:
    """Check that no layer changes its input in place: others read the same tensor."""
    given: dict[nn.Module, list[Tensor]] = {}

    def keep(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        given[layer] = [part.clone() for part in _received(arguments)]

    def compare(layer: nn.Module, arguments: tuple[Any, ...], _: Tensor) -> None:
        for now, before in zip(_received(arguments), given[layer], strict=True):
            if not equal(now, before):
                raise Violation(
                    f"{type(layer).__name__} changes its input in place",
                    size=distance(now, before),
                    cause="an operation that ends in _, or +=, on the input or on a view of it? other parts read it too",
                )

    layers = [part for part in subject.modules() if isinstance(part, Attention | FeedForward | Norm | Block | Embedding)]
    hooks = [
        hook for layer in layers for hook in (layer.register_forward_pre_hook(keep), layer.register_forward_hook(compare))
    ]
    try:
        run(subject, x, tokens)
    finally:
        for hook in hooks:
            hook.remove()


def _received(arguments: tuple[Any, ...]) -> list[Tensor]:
    """Return the tensors that a layer must not change: its input, and tokens and positions of its context."""
    contexts = [part for part in arguments if isinstance(part, Context)]
    return [arguments[0], *(tensor for ctx in contexts for tensor in (ctx.tokens, ctx.positions))]


def _check_repeated(subject: Subject, case: Case) -> None:
    """Check that a pass gives the same when it is repeated at once, and after passes with other sequences."""
    mode = "train" if case.training else "eval"
    x, tokens = inputs(subject, case)
    other, other_tokens = inputs(subject, replace(case, time=case.block_size), offset=1)
    fresh = copied(subject)
    first = run(subject, x, tokens)
    again = run(subject, x, tokens)
    if not equal(first, again):
        if equal(run(copied(subject), x, tokens), run(copied(subject), x, tokens)):
            raise Violation(
                f"in {mode} mode, the same pass gives another output when it is repeated",
                size=distance(again, first),
                cause="does forward store something on the module, or count its calls?",
            )
        raise Violation(
            f"in {mode} mode, equal inputs and equal torch seeds give other outputs each time",
            size=distance(again, first),
            cause="random numbers of Python or numpy, or the clock? a run restores only torch's seed",
        )
    run(fresh, other[:1, : 1 + case.time // 2], other_tokens[:1, : 1 + case.time // 2])
    for length in (case.block_size, case.time):
        run(fresh, other[:, :length], other_tokens[:, :length])
    again = run(fresh, x, tokens)
    if not equal(first, again):
        raise Violation(
            f"in {mode} mode, equal inputs give other outputs after a pass with another sequence",
            size=distance(again, first),
            cause="does forward store something on the module, such as a table for the longest sequence so far?",
        )


def _check_evaluation(subject: Subject, case: Case) -> None:
    """Check that eval mode draws no random numbers, reads no clock, and ignores passes in train mode."""
    x, tokens = inputs(subject, case)
    first = run(subject, x, tokens)
    if draws(subject, x, tokens):
        raise Violation("it draws random numbers in eval mode", cause="a dropout without training=self.training?")
    with other_seeds_and_clock():
        again = run(subject, x, tokens, seed=1)
    if not equal(first, again):
        raise Violation(
            "in eval mode, equal inputs give other outputs with other random seeds and another time",
            size=distance(again, first),
            cause="a random number or time.time() in forward?",
        )
    other, other_tokens = inputs(subject, case, offset=1)
    subject.train()
    run(subject, 3 * other + 1, other_tokens)
    subject.eval()
    if not equal(first, run(subject, x, tokens)):
        raise Violation(
            "in eval mode, equal inputs give other outputs after a forward pass in train mode",
            cause="running statistics, like those of batch normalisation?",
        )


def _check_seeded(subject: Subject, x: Tensor, tokens: Tensor) -> None:
    """Check that in train mode torch's seed determines the output."""
    first = run(subject, x, tokens)
    with other_seeds_and_clock():
        for _ in range(8):
            again = run(subject, x, tokens)
            if not equal(first, again):
                raise Violation(
                    "in train mode, equal torch seeds give different outputs",
                    size=distance(again, first),
                    cause="random numbers of Python or numpy, or the clock? a run restores only torch's seed",
                )
