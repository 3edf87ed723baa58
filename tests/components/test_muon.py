"""Muon: orthogonal updates of matrices, and another optimizer for the rest."""

import pytest
import torch
from torch import Tensor

from minigpt.contracts import MixedPrecisionOptimizer
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY
from minigpt.registry.spec import locate
from tests.components.optimizers import built, gradients, model, optimizer_of, parameters_of, set_gradients
from tests.rounding import assert_formula


def orthogonalised(matrix: Tensor) -> Tensor:
    """Five iterations of Jordan et al. 2024, on singular values: the polynomial is applied to each separately."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    s = s / (s.square().sum().sqrt() + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vt


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scaling", ["spectral", "match_rms_adamw"])
def test_muon_is_jordans_on_matrices_and_another_optimizer_on_the_rest(nesterov: bool, scaling: str) -> None:
    lm, other = model().double(), model().double()
    rate, momentum, decay = 0.03, 0.8, 0.2
    rest = {"learning_rate": 0.01, "betas": [0.7, 0.9], "eps": 1e-6, "weight_decay": 0.3}
    settings = {"learning_rate": rate, "momentum": momentum, "nesterov": nesterov, "weight_decay": decay}
    optimizer = optimizer_of(lm, "muon", **settings, scaling=scaling, rest={"name": "adamw", **rest})
    roles = {parameter.name: parameter.role for parameter in lm.named_roles()}
    assert set(roles.values()) == {"matrix", "embedding", "vector"}
    adamw = built("adamw", [parameter for parameter in other.named_roles() if parameter.role != "matrix"], **rest)
    expected = {name: parameter.detach().clone() for name, parameter in lm.named_parameters()}
    total = {name: torch.zeros_like(value) for name, value in expected.items()}
    for number in range(5):
        for name, gradient in gradients(lm, number).items():
            if roles[name] != "matrix":
                other.get_parameter(name).grad = gradient
                continue
            rows, columns = gradient.shape
            # As an average; the article's sum is 1/(1 - momentum) times as large, which cancels below except for the 1e-7.
            total[name] = momentum * total[name] + (1 - momentum) * gradient
            mixed = (1 - momentum) * gradient + momentum * total[name] if nesterov else total[name]
            direction = orthogonalised(mixed)
            scale = max(1, rows / columns) ** 0.5 if scaling == "spectral" else 0.2 * max(rows, columns) ** 0.5
            expected[name] = expected[name] - rate * (scale * direction + decay * expected[name])
        optimizer.step()
        optimizer.zero_grad()
        adamw.step()
    for name, parameter in lm.named_parameters():
        if roles[name] == "matrix":
            assert_formula(parameter.detach(), expected[name], name)
        else:
            assert torch.equal(parameter, other.get_parameter(name)), name


@pytest.mark.parametrize("shape", [(8, 8), (40, 8), (8, 40), (64, 64), (5, 6, 7)])
def test_the_update_of_muon_is_orthogonal_for_any_gradient(shape: tuple[int, ...]) -> None:
    matrix, bias = parameters_of((shape, "matrix"), ((3,), "vector"))
    optimizer = built("muon", [matrix, bias], learning_rate=1.0, weight_decay=0.0)
    before = matrix.tensor.detach().clone()
    u, s, vt = torch.linalg.svd(set_gradients([matrix], 0)[0], full_matrices=False)
    s = torch.logspace(0, -2, s.shape[-1], dtype=torch.float64) * 1e-3  # small, and far from orthogonal
    matrix.tensor.grad = u @ torch.diag(s) @ vt
    optimizer.step()
    values = torch.linalg.svdvals(before - matrix.tensor.detach()) / max(1, shape[-2] / shape[-1]) ** 0.5
    assert values.max() < 1.25
    assert values.min() > 0.65


@pytest.mark.parametrize("shape", [(48, 48), (32, 128), (128, 32)])
def test_in_bf16_muon_updates_are_within_bf16_precision(shape: tuple[int, int]) -> None:
    """Also if the singular values are far apart: iterations in bf16 must not explode."""
    u, s, vt = torch.linalg.svd(torch.randn(*shape, dtype=torch.float64), full_matrices=False)
    gradient = u @ torch.diag(torch.logspace(0, -4, len(s), dtype=torch.float64)) @ vt
    moved = {}
    for precision in ("fp32", "bf16"):
        matrix, bias = parameters_of((shape, "matrix"), ((3,), "vector"), dtype=torch.float32)
        optimizer = built("muon", [matrix, bias], learning_rate=1.0, weight_decay=0.0, nesterov=False)
        assert isinstance(optimizer, MixedPrecisionOptimizer)
        optimizer.precision = precision
        before = matrix.tensor.detach().clone()
        matrix.tensor.grad = gradient.float()
        optimizer.step()
        assert matrix.tensor.dtype == torch.float32
        moved[precision] = (before - matrix.tensor.detach()) / max(1, shape[0] / shape[1]) ** 0.5
    assert torch.linalg.svdvals(moved["bf16"]).max() < 1.25
    error = (moved["bf16"] - moved["fp32"]).norm() / moved["fp32"].norm()
    assert 0 < error < 0.25


def test_muon_does_not_change_a_matrix_without_gradient() -> None:
    matrix, other, bias = parameters_of(((4, 6), "matrix"), ((6, 4), "matrix"), ((4,), "vector"))
    optimizer = built("muon", [matrix, other, bias])
    before = matrix.tensor.detach().clone()
    for having in ([bias], [bias, other]):
        starts = [parameter.tensor.detach().clone() for parameter in having]
        set_gradients(having, 0)
        optimizer.step()
        assert torch.equal(matrix.tensor, before)
        assert not any(torch.equal(parameter.tensor, start) for parameter, start in zip(having, starts, strict=True))


def test_muon_refuses_an_optimizer_for_the_rest_that_averages() -> None:
    spec = REGISTRY.resolve("optimizer", {"name": "muon", "rest": "schedule_free"})
    locate(spec, "training.optimizer")
    with pytest.raises(ExperimentError, match=r"training.optimizer.rest: schedule_free evaluates with other weights than"):
        spec.build().build(list(model().named_roles()))
