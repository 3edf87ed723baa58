"""The chunked recurrence against the recurrence itself, token by token in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minigpt.recurrence import linear_recurrence


def plainly(
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
    generator = torch.Generator().manual_seed(seed)

    def normal(width: int) -> Tensor:
        return torch.randn(2, 3, time, width, generator=generator)

    inputs = {"q": normal(5), "k": 0.5 * normal(5), "v": normal(4), "before": normal(4)[:, :, :1].repeat(1, 1, 5, 1)}
    if decays != "none":
        inputs["log_decay"] = -strength * normal(1 if decays == "head" else 5).abs()
    if corrected:
        direction = torch.nn.functional.normalize(normal(5), dim=-1)
        inputs["read"] = direction
        inputs["write"] = -2 * torch.rand(2, 3, time, 1, generator=generator) * direction
        if "log_decay" in inputs:  # of what is left after the decay, or the matrix would grow
            inputs["write"] = inputs["write"] * inputs["log_decay"].exp()
    return inputs


def run(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    correction = (inputs["read"], inputs["write"]) if "read" in inputs else None
    return linear_recurrence(
        *(inputs[name] for name in ("q", "k", "v", "before")), log_decay=inputs.get("log_decay"), correction=correction
    )


def reference(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    correction = (inputs["read"], inputs["write"]) if "read" in inputs else None
    decay = inputs["log_decay"].exp() if "log_decay" in inputs else None
    return plainly(*(inputs[name] for name in ("q", "k", "v", "before")), decay, correction)


CASES = st.builds(
    case,
    time=st.sampled_from([1, 2, 7, 8, 9, 63, 64, 65, 150]),
    decays=st.sampled_from(["none", "head", "channel"]),
    corrected=st.booleans(),
    seed=st.integers(0, 999),
    strength=st.sampled_from([0.01, 1.0, 2.0]),
)


def assert_close(got: Tensor, expected: Tensor, what: str, tolerance: float = 1e-5) -> None:
    error = (got.double() - expected).abs().max().item() / (1 + expected.abs().max().item())
    assert error < tolerance, f"{what}: {error:.1e}"


def bounded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Decays by channel have a least one; see least_log_decay."""
    by_channel = "log_decay" in inputs and inputs["log_decay"].shape[-1] > 1
    return {**inputs, "log_decay": inputs["log_decay"].clamp(min=-10)} if by_channel else inputs


@given(CASES)
def test_chunks_compute_the_recurrence(inputs: dict[str, Tensor]) -> None:
    y, after = run(inputs)
    expected, matrix = reference(bounded({name: x.double() for name, x in inputs.items()}))
    assert_close(y, expected, "outputs")
    assert_close(after, matrix, "the matrix")


@given(CASES)
def test_gradients_are_the_recurrences(inputs: dict[str, Tensor]) -> None:
    single = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    double = {name: x.double().requires_grad_() for name, x in inputs.items()}
    weights = torch.randn(inputs["v"].shape, generator=torch.Generator().manual_seed(1))
    y, after = run(single)
    ((y * weights).sum() + after.sum()).backward()
    expected, matrix = reference(bounded(double))
    ((expected * weights.double()).sum() + matrix.sum()).backward()
    for name, x in single.items():
        assert x.grad is not None
        assert_close(x.grad, double[name].grad, name, tolerance=3e-5)  # running sums of strong decays round at 1e-5


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
    assert_close(torch.cat((y, rest), 2), whole.double(), "outputs")
    assert_close(end, matrix.double(), "the matrix")


@pytest.mark.parametrize("decays", ["none", "head", "channel"])
@pytest.mark.parametrize("corrected", [False, True])
def test_later_tokens_change_not_a_bit_of_earlier_outputs(decays: str, corrected: bool) -> None:
    inputs = case(100, decays, corrected, 3)
    y, _ = run(inputs)
    changed = {
        name: x if name == "before" else torch.cat((x[:, :, :37], 1.5 * x[:, :, 37:]), 2) for name, x in inputs.items()
    }
    assert torch.equal(run(changed)[0][:, :, :37], y[:, :, :37])
    assert not torch.equal(run(changed)[0], y)


@pytest.mark.parametrize("least", [-0.5, -2.0, -100.0])
def test_the_least_decay_sets_the_chunk_and_bounds_the_decay(least: float) -> None:
    inputs = case(100, "channel", True, 4, strength=1.0)
    double = {name: x.double() for name, x in inputs.items()}
    y, after = linear_recurrence(
        *(inputs[name] for name in ("q", "k", "v", "before")),
        log_decay=inputs["log_decay"],
        correction=(inputs["read"], inputs["write"]),
        least_log_decay=least,
    )
    expected, matrix = reference({**double, "log_decay": double["log_decay"].clamp(min=least)})
    assert_close(y, expected, "outputs")
    assert_close(after, matrix, "the matrix")


def test_one_strong_forgetting_costs_no_accuracy_later() -> None:
    inputs = case(150, "head", False, 6)
    inputs["log_decay"] = torch.full((2, 3, 150, 1), -0.01)
    inputs["log_decay"][:, :, ::16] = -1e4
    y, after = run(inputs)
    expected, matrix = reference({name: x.double() for name, x in inputs.items()})
    assert_close(y, expected, "outputs", tolerance=3e-5)
    assert_close(after, matrix, "the matrix", tolerance=3e-5)


def test_extreme_decays_stay_finite() -> None:
    for decays in ("head", "channel"):
        inputs = {name: x.requires_grad_() for name, x in case(100, decays, False, 3, strength=1e4).items()}
        y, after = run(inputs)
        (y.sum() + after.sum()).backward()
        for x in (y, after, *(x.grad for x in inputs.values())):
            assert torch.isfinite(x).all()


def test_it_computes_in_fp32_under_autocast() -> None:
    inputs = case(70, "head", True, 5)
    with torch.autocast("cpu", torch.bfloat16):
        low = run({name: x if name == "before" else x.bfloat16() for name, x in inputs.items()})
    rounded = {name: x if name == "before" else x.bfloat16().float() for name, x in inputs.items()}
    assert low[0].dtype == torch.bfloat16
    assert low[1].dtype == torch.float32
    torch.testing.assert_close(low[1], run(rounded)[1])
