"""The chunked recurrence equals the recurrence token by token: in float64, and in fp32 within its rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minigpt.kernels.recurrence import CHUNK, linear_recurrence
from tests.rounding import assert_formula, assert_stable, assert_within, gamma, normal


def token_by_token(
    q: Tensor, k: Tensor, v: Tensor, matrix: Tensor, decay: Tensor | None, correction: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """S_t = diag(d_t) S_(t-1) + w_t (r_t^T S_(t-1)) + k_t v_t^T,  y_t = S_t^T q_t."""
    outputs = []
    for t in range(q.shape[2]):
        old = matrix
        if decay is not None:
            matrix = decay[:, :, t, :, None] * matrix
        if correction is not None:
            read, write = correction
            matrix = matrix + torch.einsum("bhk,bhj,bhjv->bhkv", write[:, :, t], read[:, :, t], old)
        matrix = matrix + torch.einsum("bhk,bhv->bhkv", k[:, :, t], v[:, :, t])
        outputs.append(torch.einsum("bhkv,bhk->bhv", matrix, q[:, :, t]))
    return torch.stack(outputs, 2), matrix


def case(time: int, decays: str, corrected: bool, seed: int, strength: float = 1.0) -> dict[str, Tensor]:
    """Inputs in float64 that fp32 can represent."""
    seeds = itertools.count(100 * seed)

    def drawn(width: int) -> Tensor:
        return normal(2, 3, time, width, seed=next(seeds))

    inputs = {"q": drawn(5), "k": 0.5 * drawn(5), "v": drawn(4), "before": drawn(4)[:, :, :1].repeat(1, 1, 5, 1)}
    if decays != "none":
        inputs["log_decay"] = -strength * drawn(1 if decays == "head" else 5).abs()
    if corrected:
        direction = torch.nn.functional.normalize(drawn(5), dim=-1)
        inputs["read"] = direction
        inputs["write"] = -2 * drawn(1).abs().clamp(max=1) * direction
        if "log_decay" in inputs:  # relative to the decayed matrix, or it would grow
            inputs["write"] = inputs["write"] * inputs["log_decay"].exp()
    return {name: x.float().double() for name, x in inputs.items()}


def run(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    correction = (inputs["read"], inputs["write"]) if "read" in inputs else None
    return linear_recurrence(
        *(inputs[name] for name in ("q", "k", "v", "before")), log_decay=inputs.get("log_decay"), correction=correction
    )


def reference(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    correction = (inputs["read"], inputs["write"]) if "read" in inputs else None
    decay = inputs["log_decay"].exp() if "log_decay" in inputs else None
    return token_by_token(*(inputs[name] for name in ("q", "k", "v", "before")), decay, correction)


CASES = st.builds(
    case,
    time=st.sampled_from([1, 2, 7, 8, 9, 63, 64, 65, 150]),
    decays=st.sampled_from(["none", "head", "channel"]),
    corrected=st.booleans(),
    seed=st.integers(0, 999),
    strength=st.sampled_from([0.01, 1.0, 2.0]),
)


def bounded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Clamp per-channel decays; see least_log_decay."""
    by_channel = "log_decay" in inputs and inputs["log_decay"].shape[-1] > 1
    return {**inputs, "log_decay": inputs["log_decay"].clamp(min=-10)} if by_channel else inputs


@given(CASES)
def test_chunks_compute_the_recurrence(inputs: dict[str, Tensor]) -> None:
    y, after = run(inputs)
    expected, matrix = reference(bounded(inputs))
    assert_formula(y, expected, "outputs")
    assert_formula(after, matrix, "the matrix")


@given(CASES)
def test_gradients_match_the_recurrence(inputs: dict[str, Tensor]) -> None:
    got, expected = gradients(run, inputs), gradients(lambda x: reference(bounded(x)), inputs)
    for name, gradient in got.items():
        assert_formula(gradient, expected[name], name)


@given(CASES)
def test_in_fp32_values_and_gradients_are_within_its_rounding(inputs: dict[str, Tensor]) -> None:
    # Before it is read, a number goes through the sums of a chunk, of the running decays in it, and of all chunks.
    roundings = 2 * CHUNK + inputs["q"].shape[2]
    assert_stable(lambda x: dict(zip(("outputs", "the matrix"), run(x), strict=True)), inputs, roundings)
    assert_stable(lambda x: gradients(run, x), inputs, 2 * roundings)


def gradients(compute: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    held = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    y, after = compute(held)
    of = (y * normal(*y.shape, seed=1).to(y.dtype)).sum() + after.sum()
    return dict(zip(held, torch.autograd.grad(of, held.values()), strict=True))


@given(CASES, st.integers(1, 149))
def test_a_sequence_cut_in_two_is_the_same_sequence(inputs: dict[str, Tensor], cut: int) -> None:
    time = inputs["q"].shape[2]
    cut = min(cut, time - 1)
    if cut < 1:
        return
    whole, matrix = run(inputs)
    first = {name: x if name == "before" else x[:, :, :cut] for name, x in inputs.items()}
    y, after = run(first)
    second = {name: after if name == "before" else x[:, :, cut:] for name, x in inputs.items()}
    rest, end = run(second)
    assert_formula(torch.cat((y, rest), 2), whole, "outputs")
    assert_formula(end, matrix, "the matrix")


@pytest.mark.parametrize("decays", ["none", "head", "channel"])
@pytest.mark.parametrize("corrected", [False, True])
def test_later_tokens_do_not_change_a_bit_of_earlier_outputs(decays: str, corrected: bool) -> None:
    inputs = {name: x.float() for name, x in case(100, decays, corrected, 3).items()}
    y, _ = run(inputs)
    changed = {
        name: x if name == "before" else torch.cat((x[:, :, :37], 1.5 * x[:, :, 37:]), 2) for name, x in inputs.items()
    }
    assert torch.equal(run(changed)[0][:, :, :37], y[:, :, :37])
    assert not torch.equal(run(changed)[0], y)


@pytest.mark.parametrize("least", [-0.5, -2.0, -100.0])
def test_the_least_decay_sets_the_chunk_and_bounds_the_decay(least: float) -> None:
    inputs = case(100, "channel", True, 4, strength=1.0)
    y, after = linear_recurrence(
        *(inputs[name] for name in ("q", "k", "v", "before")),
        log_decay=inputs["log_decay"],
        correction=(inputs["read"], inputs["write"]),
        least_log_decay=least,
    )
    expected, matrix = reference({**inputs, "log_decay": inputs["log_decay"].clamp(min=least)})
    assert_formula(y, expected, "outputs")
    assert_formula(after, matrix, "the matrix")


def test_one_strong_decay_costs_no_accuracy_later() -> None:
    inputs = case(150, "head", False, 6)
    inputs["log_decay"] = torch.full((2, 3, 150, 1), -(2.0**-7), dtype=torch.float64)
    inputs["log_decay"][:, :, ::16] = -1e4
    y, after = run(inputs)
    expected, matrix = reference(inputs)
    assert_formula(y, expected, "outputs")  # the remaining e^-30 of strong decays included
    assert_formula(after, matrix, "the matrix")
    low, after = run({name: x.float() for name, x in inputs.items()})
    # A chunk's running sum reaches 4 times 30: its rounding is the only error of a decay.
    error = gamma(CHUNK) * 4 * 30
    for got, exact in ((low, expected), (after, matrix)):
        assert_within(got, exact, torch.full_like(exact, error * (1 + exact.abs().max().item())))


def test_extreme_decays_stay_finite() -> None:
    for decays in ("head", "channel"):
        inputs = {name: x.float().requires_grad_() for name, x in case(100, decays, False, 3, strength=1e4).items()}
        y, after = run(inputs)
        (y.sum() + after.sum()).backward()
        for x in (y, after, *(x.grad for x in inputs.values())):
            assert torch.isfinite(x).all()


def test_it_computes_in_fp32_under_autocast() -> None:
    inputs = {name: x.float() for name, x in case(70, "head", True, 5).items()}
    with torch.autocast("cpu", torch.bfloat16):
        low = run({name: x if name == "before" else x.bfloat16() for name, x in inputs.items()})
    rounded = {name: x if name == "before" else x.bfloat16().float() for name, x in inputs.items()}
    assert low[0].dtype == torch.bfloat16
    assert low[1].dtype == torch.float32
    assert torch.equal(low[1], run(rounded)[1])
