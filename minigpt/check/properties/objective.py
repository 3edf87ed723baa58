"""The properties of objectives."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from minigpt.check.agreement import OTHER_PATH, equal
from minigpt.check.cases import VOCAB
from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.properties.resuming import check_resumes
from minigpt.check.properties.surroundings import random_states_kept, refusals
from minigpt.check.property import Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Prediction, Teacher
from minigpt.errors import PluginError
from minigpt.experiment import ModelSection
from minigpt.model import GPT

_STEPS, _LEARNING_RATE = 40, 1e-2


@dataclass(frozen=True)
class Case:
    """One test case for an objective.

    Attributes:
        params: Parameters that differ from the defaults.
        time: Number T of tokens.
        batch: Number B of sequences.
        masked: Whether only a part of the targets counts.
        segments: Whether each row has two segments.
        training: Whether the model is in train mode.
        seed: Seed of weights and inputs.
        updates: Updates before and after it is saved, where a property needs some. A prime, so that no period divides it.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    time: int = 12
    batch: int = 4
    masked: bool = False
    segments: bool = False
    training: bool = True
    seed: int = 0
    updates: int = 3


def _cases(target: Target) -> list[Case]:
    base, *changed = parameter_sets(target)
    defaults = [Case(base), Case(base, masked=True, training=False), Case(base, segments=True), Case(base, time=1, batch=2)]
    return [*defaults, *(Case(params, masked=number % 2 == 1, seed=number) for number, params in enumerate(changed))]


def _defaults(target: Target) -> list[Case]:
    return [Case(params) for params in parameter_sets(target)]


def _any_case(target: Target) -> st.SearchStrategy[Case]:
    sizes = st.integers(1, 14), st.integers(2, 5)
    return st.builds(Case, parameters(target), *sizes, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 99))


def _built(target: Target, case: Case) -> GPT:
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "block_size": 16, "dropout": 0.0}
    with refusals(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(case.seed)
        section = ModelSection.model_validate({**sizes, "objective": target.spec(case.params)})
        model = GPT(section, VOCAB).train(case.training)
    model.open_run = _teacher
    return model


def _teacher(path: str) -> Teacher:
    """A teacher in place of a run: it knows the text, and differs a little by path."""
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
    own = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed))
    return lambda tokens: 4.0 * F.one_hot(tokens.roll(-1, 1), VOCAB) + own[tokens]


def _batch(case: Case) -> dict[str, Tensor | None]:
    """Text of `time` + 1 tokens in each row, which repeats itself, so that it can be learned."""
    generator = torch.Generator().manual_seed(1000 + case.seed)
    ids = torch.randint(0, VOCAB, (case.batch, 5), generator=generator).repeat(1, 4)[:, : case.time + 1]
    mask = torch.rand(case.batch, case.time, generator=generator) < 0.6
    mask[:, -1] = True
    halves = (torch.arange(case.time) >= case.time // 2).long().expand(case.batch, -1)
    return {
        "tokens": ids[:, :-1],
        "targets": ids[:, 1:],
        "mask": mask if case.masked else None,
        "segments": halves if case.segments else None,
    }


def _minimised(model: GPT, batch: Mapping[str, Tensor | None], seed: int = 0) -> Tensor:
    torch.default_generator.manual_seed(seed)
    with refusals():  # an objective may refuse batches with segments
        loss, auxiliary = model.loss(**batch)  # type: ignore[arg-type]
    return loss + auxiliary


def _rows(batch: Mapping[str, Tensor | None], rows: slice) -> dict[str, Tensor | None]:
    return {name: None if tensor is None else tensor[rows] for name, tensor in batch.items()}


@property_of("objective", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def scalar(target: Target, case: Case) -> None:
    """The loss and each further term are single finite numbers, in fp32 or wider."""
    model, batch = _built(target, case), _batch(case)
    found: list[tuple[str, Tensor]] = []
    model.objective.register_forward_hook(
        lambda _, given, loss: found.extend(
            [("the loss", loss), *(("a further term", each) for each in given[0].ctx.losses)]
        )
    )
    for size, narrow in ((1.0, False), (1e4, False), (1.0, True)):
        with torch.no_grad():
            model.norm.get_parameter("weight").fill_(size)
        found.clear()
        refusal: PluginError | None = None
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow), refusals():
            try:
                model.loss(**batch)  # type: ignore[arg-type]
            except PluginError as error:  # of a term that is no single number, which the loop below reports
                refusal = error
        for what, value in found:
            if not isinstance(value, Tensor) or value.ndim:
                shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise Violation(f"{what} is no single number: {shape}", cause="is the mean over the targets missing?")
            if value.dtype not in (torch.float32, torch.float64):
                raise Violation(f"{what} is {value.dtype}", cause="are logits used without minigpt.kernels.fused.upcast?")
            if not torch.isfinite(value):
                raise Violation(
                    f"{what} is {value.item()} for hidden vectors of size {size:g}",
                    cause="an exponential without subtracting the maximum, or a division by a count of zero?",
                )
        if refusal is not None:
            raise refusal


@property_of("objective", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def validation(target: Target, case: Case) -> None:
    """Training on it leaves validation as it is: the cross-entropy of the next token, by the model's weights alone."""
    model, batch = _built(target, case), _batch(case)
    measured = {key: batch[key] for key in ("tokens", "targets", "mask")}
    with torch.no_grad():
        other = _built_plain(model).eval().cross_entropy(**measured)  # type: ignore[arg-type]
    received: list[tuple[str, Tensor, Tensor]] = []
    model.objective.register_forward_pre_hook(lambda _, given: received.extend(_copies(given[0])))
    for when in ("at the beginning", "after a forward pass in train mode", "after a backward pass"):
        if when != "at the beginning":
            loss = _minimised(model.train(), batch)
            if when == "after a backward pass" and loss.requires_grad:
                torch.autograd.backward(loss)
        for what, tensor, before in received:
            if not equal(tensor, before):
                raise Violation(f"{what} that it receives are changed in place", cause="an operation that ends in _?")
        with torch.no_grad():
            one = model.eval().cross_entropy(**measured)  # type: ignore[arg-type]
        if not equal(one, other):
            raise Violation(
                f"{when}, the validation loss is {one.item():.6f}, but {other.item():.6f} with the objective next_token",
                size=float((one - other).abs()),
                cause="does it change weights, hidden vectors or logits in place, or register hooks?",
            )


def _copies(prediction: Prediction) -> list[tuple[str, Tensor, Tensor]]:
    """What an objective receives: names, tensors, and copies of them."""
    named = {name: getattr(prediction, name) for name in ("tokens", "targets", "mask", "hidden", "logits")}
    return [(name, each, each.detach().clone()) for name, each in named.items() if each is not None]


def _built_plain(model: GPT) -> GPT:
    """A copy of the model that never meets the objective."""
    plain = copy.deepcopy(model)
    plain.objective = torch.nn.Identity()  # type: ignore[assignment]
    return plain


@property_of("objective", cases=_cases, strategy=_any_case)
@random_states_kept()
def masking(target: Target, case: Case) -> None:
    """Targets that do not count change nothing."""
    case_masked = Case(case.params, case.time, case.batch, True, case.segments, case.training, case.seed)
    model, batch = _built(target, case_masked).double(), _batch(case_masked)
    targets, mask = batch["targets"], batch["mask"]
    assert targets is not None
    assert mask is not None
    others = torch.where(mask, targets, (targets + 7) % VOCAB)
    one, other = _minimised(model, batch), _minimised(model, {**batch, "targets": others})
    if (one - other).abs() > 1e-9 * (1 + one.abs()):  # in float64, so that a weak effect is seen too
        raise Violation(
            f"the loss is {one.item():.9f}, but {other.item():.9f} with other ids at targets that do not count",
            cause="is a mean taken over all targets? prediction.mean counts only those of the mask",
        )


@property_of("objective", cases=_cases, strategy=_any_case)
@random_states_kept()
def additive(target: Target, case: Case) -> None:
    """A batch's loss is the mean of its rows' losses, weighted by their targets: a trainer may divide a batch."""
    model, batch = _built(target, case).eval(), _batch(case)
    mask = batch["mask"]
    counts = torch.full((case.batch,), case.time) if mask is None else mask.sum(1)
    whole = _minimised(model.double(), batch)
    parts = [_minimised(model, _rows(batch, slice(row, row + 1))) for row in range(case.batch)]
    together = (torch.stack(parts) * counts / counts.sum()).sum()
    if (whole - together).abs() > OTHER_PATH * (1 + whole.abs()):
        raise Violation(
            f"the loss of {case.batch} rows is {whole.item():.6f}, but {together.item():.6f} as the mean of their losses",
            cause="is a sum divided by another number than that of the targets that count? see prediction.mean",
        )


@property_of("objective", cases=_defaults)
@random_states_kept()
def learning(target: Target, case: Case) -> None:
    """Training on it lowers the cross-entropy of the next token, and each of its weights takes part."""
    model, batch = _built(target, case), _batch(case)
    measured = {key: batch[key] for key in ("tokens", "targets", "mask")}
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    before = model.cross_entropy(**measured)  # type: ignore[arg-type]
    living: set[str] = set()
    for step in range(_STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(_minimised(model, batch, seed=step))
        grads = ((name, parameter.grad) for name, parameter in model.objective.named_parameters())
        living |= {name for name, grad in grads if grad is not None and (grad != 0).any()}
        optimizer.step()
        model.after_step()
    after = model.cross_entropy(**measured)  # type: ignore[arg-type]
    if dead := sorted({name for name, _ in model.objective.named_parameters()} - living):
        raise Violation(f"{', '.join(dead[:4])}: a gradient of zero, or none", cause="is it used, without detach()?")
    if not torch.isfinite(after):
        raise Violation(
            f"the cross-entropy is {after.item()} after {_STEPS} updates", cause="is the loss, or a gradient, not finite?"
        )
    if not after < 0.8 * before:
        raise Violation(
            f"{_STEPS} updates change the cross-entropy of a text that repeats itself from {before:.3f} to {after:.3f}",
            cause="is the sign wrong, or are the targets those of another position?",
        )


@property_of("objective", cases=_cases)
@random_states_kept()
def repeatable(target: Target, case: Case) -> None:
    """Equal weights, inputs and seeds of torch give equal losses, however often it was used before."""
    model, batch = _built(target, case), _batch(case)
    first = _minimised(model, batch)
    _minimised(model, _batch(Case(case.params, case.time, case.batch, seed=case.seed + 1)))
    if not equal(first, _minimised(model, batch)):
        raise Violation(
            "the same inputs give another loss after others were seen",
            cause="does it remember something between calls, or draw random numbers that are not torch's?",
        )


def _cases_to_resume(target: Target) -> list[Case]:
    base, *changed = parameter_sets(target)
    return [Case(base, updates=59), *(Case(params, masked=True, seed=number) for number, params in enumerate(changed))]


@property_of("objective", cases=_cases_to_resume, strategy=_any_case, quick=1)
@random_states_kept()
def resumable(target: Target, case: Case) -> None:
    """Saved after any number of updates and loaded into a fresh model, it continues bit for bit."""

    def make(fresh: bool) -> GPT:
        return _built(target, replace(case, seed=case.seed + fresh))

    def outputs(model: torch.nn.Module, number: int) -> Tensor:
        assert isinstance(model, GPT)
        batch = _batch(replace(case, seed=case.seed + number))
        if model.training:
            return _minimised(model, batch, number)[None]
        return model.cross_entropy(*(batch[key] for key in ("tokens", "targets", "mask")))[None]  # type: ignore[arg-type]

    check_resumes(make, outputs, case.updates, case.updates)


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> str:
    """Return a digest of losses and gradients, with and without a mask.

    Raises:
        Unsuitable: The objective refuses these parameters.
    """
    digest = hashlib.sha256()
    for masked in (False, True):
        case = Case(params, masked=masked)
        model = _built(target, case)
        loss, auxiliary = model.loss(**_batch(case))  # type: ignore[arg-type]
        torch.autograd.backward(loss + auxiliary)
        for value in (loss, auxiliary, *(p.grad for p in model.parameters() if p.grad is not None)):
            digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
