"""Each optimizer computes its paper's algorithm, and can be saved and continued bit for bit."""

from __future__ import annotations

import json
import math
import typing

import pytest
import torch
from torch import Tensor, nn

from minigpt.contracts import AveragingOptimizer, NamedParameter
from minigpt.registry import REGISTRY
from minigpt.run.packing import pack, unpack
from tests.components.optimizers import built, gradients, model, optimizer_of, parameters_of, pieces, set_gradients, step
from tests.rounding import assert_formula

NAMES = [entry.name for entry in REGISTRY.entries("optimizer")]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_exactly_one_group(name: str) -> None:
    lm = model()
    held = [id(tensor) for group in optimizer_of(lm, name).param_groups for tensor in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in lm.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_it_lowers_the_loss_and_stays_finite(name: str) -> None:
    lm = model()
    optimizer = optimizer_of(lm, name)
    ids = torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(60):
        loss = lm.loss(ids[:, :-1], ids[:, 1:])[0]
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.01
    assert all(torch.isfinite(parameter).all() for parameter in lm.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_its_state_is_saved_without_pickle_and_continues_bit_for_bit(name: str) -> None:
    whole, first = model(), model()
    straight, before = optimizer_of(whole, name), optimizer_of(first, name)
    for number in range(7):
        step(whole, straight, number)
    for number in range(3):
        step(first, before, number)
    tensors: dict[str, torch.Tensor] = {}
    saved = json.loads(json.dumps(pack(before.state_dict(), tensors)))
    second = model()
    second.load_state_dict(first.state_dict())
    after = optimizer_of(second, name)
    after.load_state_dict(unpack(saved, tensors))
    for number in range(3, 7):
        step(second, after, number)
    for (key, a), (_, b) in zip(whole.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), key


# Values to try for parameters whose type suggests none.
VALUES = {
    "momentum": 0.5,
    "betas": [0.5, 0.6],
    "shampoo_beta": 0.3,
    "iterations": 2,
    "precondition_frequency": 2,
    "max_precondition_dim": 8,
    "rest": "sgd",
    "optimizer": "sgd",
    "decay": 0.5,
    "start": 2,
    "k": 2,
    "every": 3,
}
BESIDE = {"k": {"every": 1}}
"""Another value for a parameter without which this one has no effect."""
KNOBS = [(name, knob) for name in NAMES for knob in REGISTRY.entry("optimizer", name).params.model_fields]


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_every_knob_changes_the_weights(name: str, knob: str) -> None:
    field = REGISTRY.entry("optimizer", name).params.model_fields[knob]
    if knob in VALUES:
        other = VALUES[knob]
    elif typing.get_origin(field.annotation) is typing.Literal:
        other = next(value for value in typing.get_args(field.annotation) if value != field.default)
    elif isinstance(field.default, bool):
        other = not field.default
    else:
        assert isinstance(field.default, float), f"add a value to try for {knob} to VALUES"
        other = field.default * 1.5 if field.default else 0.5
    results = []
    for params in ({}, {knob: other}):
        lm = model()
        optimizer = optimizer_of(lm, name, **BESIDE.get(knob, {}), **params)
        for number in range(5):
            step(lm, optimizer, number)
        if isinstance(optimizer, AveragingOptimizer):
            optimizer.eval()
        results.append(torch.cat([parameter.detach().flatten() for parameter in lm.parameters()]))
    assert not torch.equal(*results), f"{knob} = {other} changes nothing"


def test_adamw_computes_the_papers_algorithm_and_decays_only_matrices() -> None:
    """Algorithm 2 of Loshchilov & Hutter 2017, in float64."""
    lm = model().double()
    rate, (beta1, beta2), eps, decay = 0.01, (0.8, 0.95), 1e-6, 0.3
    optimizer = optimizer_of(lm, "adamw", learning_rate=rate, betas=[beta1, beta2], eps=eps, weight_decay=decay)
    expected = {name: parameter.detach().clone() for name, parameter in lm.named_parameters()}
    mean = {name: torch.zeros_like(value) for name, value in expected.items()}
    square = {name: torch.zeros_like(value) for name, value in expected.items()}
    for number in range(1, 6):
        gradient_of = gradients(lm, number)
        for name, parameter in lm.named_parameters():
            gradient = gradient_of[name]
            mean[name] = beta1 * mean[name] + (1 - beta1) * gradient
            square[name] = beta2 * square[name] + (1 - beta2) * gradient**2
            update = mean[name] / (1 - beta1**number) / ((square[name] / (1 - beta2**number)).sqrt() + eps)
            shrink = rate * decay if parameter.ndim >= 2 else 0.0
            expected[name] = expected[name] - shrink * expected[name] - rate * update
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in lm.named_parameters():
        assert_formula(parameter.detach(), expected[name], name)


def test_lion_computes_the_papers_algorithm() -> None:
    """Algorithm 2 of Chen et al. 2023."""
    lm = model().double()
    rate, (beta1, beta2), decay = 0.003, (0.8, 0.95), 0.5
    optimizer = optimizer_of(lm, "lion", learning_rate=rate, betas=[beta1, beta2], weight_decay=decay)
    momentum: dict[str, torch.Tensor] = {}
    for number in range(1, 6):
        before = {name: parameter.detach().clone() for name, parameter in lm.named_parameters()}
        gradient = gradients(lm, number)
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in lm.named_parameters():
            m = momentum.get(name, torch.zeros_like(before[name]))
            mixed = beta1 * m + (1 - beta1) * gradient[name]
            momentum[name] = beta2 * m + (1 - beta2) * gradient[name]
            shrink = decay if parameter.ndim >= 2 else 0.0
            expected = before[name] - rate * (mixed.sign() + shrink * before[name])
            sure = mixed.abs() > 1e-15  # the sign of a value near zero is rounding
            assert_formula(parameter.detach()[sure], expected[sure], name)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_computes_momentum(nesterov: bool) -> None:
    lm = model().double()
    optimizer = optimizer_of(lm, "sgd", learning_rate=0.05, momentum=0.7, nesterov=nesterov, weight_decay=0.1)
    momentum: dict[str, torch.Tensor] = {}
    for number in range(1, 5):
        before = {name: parameter.detach().clone() for name, parameter in lm.named_parameters()}
        gradient = gradients(lm, number)
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in lm.named_parameters():
            g = gradient[name] + (0.1 * before[name] if parameter.ndim >= 2 else 0)
            momentum[name] = g if number == 1 else 0.7 * momentum[name] + g
            direction = g + 0.7 * momentum[name] if nesterov else momentum[name]
            assert_formula(parameter.detach(), before[name] - 0.05 * direction, name)


# ------------------------------------------------------------------------------- parameters without a model around them


@pytest.mark.parametrize("name", ["muon", "soap"])
def test_a_stack_of_matrices_is_updated_like_separate_matrices(name: str) -> None:
    # Square: if the rank of a first gradient is below its longer side, rounding chooses between eigenvectors.
    stack, bias = parameters_of(((2, 3, 5, 5), "matrix"), ((3,), "vector"))
    separate = [NamedParameter(str(i), nn.Parameter(w), "matrix") for i, w in enumerate(pieces(stack.tensor))]
    whole, single = built(name, [stack, bias]), built(name, [*separate, bias])
    for number in range(12):
        (gradient,) = set_gradients([stack], number)
        for parameter, own in zip(separate, pieces(gradient), strict=True):
            parameter.tensor.grad = own
        whole.step()
        single.step()
    for got, expected in zip(pieces(stack.tensor), separate, strict=True):
        assert_formula(got, expected.tensor.detach())


# ------------------------------------------------------------------------------------------------------------------ soap


RATE, BETA1, BETA2, EPS, FREQUENCY, LONGEST = 0.02, 0.8, 0.9, 1e-6, 3, 10


class PaperSOAP:
    """Algorithms 3 and 4 of Vyas et al. 2024 for one matrix, in float64, with Adam's bias correction.

    Without sides to rotate it is Adam. The first gradient of a matrix only gives the eigenbasis.
    """

    def __init__(self, w: Tensor, *, sides: str, decay: float, shampoo_beta: float):
        self.w, self.sides, self.decay, self.beta, self.t = w.clone(), sides, decay, shampoo_beta, 0
        self.m, self.v = torch.zeros_like(w), torch.zeros_like(w)
        self.p = {side: torch.tensor(0.0) for side in sides}
        self.q: dict[str, Tensor] = {}

    def track(self, g: Tensor) -> None:
        for side in self.sides:
            self.p[side] = self.beta * self.p[side] + (1 - self.beta) * (g @ g.T if side == "L" else g.T @ g)

    def begin(self, g: Tensor, bases: dict[str, Tensor]) -> None:
        """Copy eigenvectors, which are not unique, after a check that they are eigenvectors."""
        self.track(g)
        assert set(bases) == set(self.sides)
        for side, q in bases.items():
            values = torch.linalg.eigvalsh(self.p[side]).flip(0)  # the largest first
            assert_formula(q.T @ q, torch.eye(len(q), dtype=torch.float64))
            assert_formula(q.T @ self.p[side] @ q, torch.diag(values))
        self.q = bases

    def turned(self, x: Tensor) -> Tensor:
        x = self.q["L"].T @ x if "L" in self.q else x
        return x @ self.q["R"] if "R" in self.q else x

    def step(self, g: Tensor) -> None:
        self.t += 1
        self.m = BETA1 * self.m + (1 - BETA1) * g
        self.v = BETA2 * self.v + (1 - BETA2) * self.turned(g) ** 2
        n = self.turned(self.m) / (1 - BETA1**self.t) / ((self.v / (1 - BETA2**self.t)).sqrt() + EPS)
        n = self.q["L"] @ n if "L" in self.q else n
        n = n @ self.q["R"].T if "R" in self.q else n
        self.w = self.w - RATE * n - RATE * self.decay * self.w
        self.track(g)
        if self.t % FREQUENCY == 0:
            self.q = {side: torch.linalg.qr(self.p[side] @ self.q[side]).Q for side in self.sides}


@pytest.mark.parametrize("shampoo_beta", [None, 0.6])
def test_soap_computes_the_papers_algorithm(shampoo_beta: float | None) -> None:
    kinds = [((5, 7), "matrix"), ((3, 4, 5), "matrix"), ((30, 5), "embedding"), ((4, 30), "head"), ((30, 30), "matrix")]
    parameters = parameters_of(*kinds, ((4,), "vector"), ((4, 3), "vector"))
    optimizer = built(
        "soap",
        parameters,
        learning_rate=RATE,
        betas=[BETA1, BETA2],
        eps=EPS,
        weight_decay=0.3,
        shampoo_beta=shampoo_beta,
        precondition_frequency=FREQUENCY,
        max_precondition_dim=LONGEST,
    )
    sides = ["LR", "LR", "R", "L", "", "", ""]
    papers = [
        [
            PaperSOAP(w, sides=turned, decay=0.0 if parameter.role == "vector" else 0.3, shampoo_beta=shampoo_beta or BETA2)
            for w in pieces(parameter.tensor)
        ]
        for parameter, turned in zip(parameters, sides, strict=True)
    ]
    for number in range(3 * FREQUENCY + 2):
        drawn = set_gradients(parameters, number)
        optimizer.step()
        for parameter, paper, gradient in zip(parameters, papers, drawn, strict=True):
            bases = optimizer.state[parameter.tensor]["bases"]
            for index, (one, g) in enumerate(zip(paper, pieces(gradient), strict=True)):
                if one.sides and number == 0:
                    one.begin(g, {"L" if side == -2 else "R": pieces(q)[index] for side, q in bases.items()})
                else:
                    one.step(g)
            for one, w in zip(paper, pieces(parameter.tensor), strict=True):
                assert_formula(w, one.w, parameter.name)


# --------------------------------------------------------------------------------------------------------- schedule_free


def test_schedule_free_computes_the_papers_algorithm() -> None:
    """Algorithm 1 of Defazio et al. 2024, in float64, with a learning rate that rises and falls."""
    parameters = parameters_of(((5, 7), "matrix"), ((9, 4), "embedding"), ((4,), "vector"), ((4, 3), "vector"))
    peak, (beta1, beta2), eps, decay = 0.05, (0.8, 0.95), 1e-6, 0.3
    settings = {"learning_rate": peak, "betas": [beta1, beta2], "eps": eps, "weight_decay": decay}
    optimizer = built("schedule_free", parameters, **settings)
    assert isinstance(optimizer, AveragingOptimizer)
    x = [parameter.tensor.detach().clone() for parameter in parameters]
    z, v = [value.clone() for value in x], [torch.zeros_like(value) for value in x]
    rates: list[float] = []
    for t, factor in enumerate((0.0, 0.25, 0.5, 1.0, 1.0, 0.3, 0.0), 1):
        for group in optimizer.param_groups:
            group["lr"] = peak * factor
        rates.append(peak * factor * math.sqrt(1 - beta2**t))
        y = [(1 - beta1) * below + beta1 * mean for below, mean in zip(z, x, strict=True)]
        for index, g in enumerate(set_gradients(parameters, t)):
            assert_formula(parameters[index].tensor.detach(), y[index])
            shrink = 0.0 if parameters[index].role == "vector" else decay
            v[index] = beta2 * v[index] + (1 - beta2) * g**2
            z[index] = z[index] - rates[-1] * g / (v[index].sqrt() + eps) - rates[-1] * shrink * y[index]
            c = rates[-1] ** 2 / sum(rate**2 for rate in rates) if any(rates) else 0.0
            x[index] = (1 - c) * x[index] + c * z[index]
        optimizer.step()
    optimizer.eval()
    for parameter, expected in zip(parameters, x, strict=True):
        assert_formula(parameter.tensor.detach(), expected)


def test_schedule_free_swaps_its_weights_in_and_out_bit_for_bit() -> None:
    lm = model()
    optimizer = optimizer_of(lm, "schedule_free", learning_rate=0.03)
    assert isinstance(optimizer, AveragingOptimizer)
    start = [parameter.detach().clone() for parameter in lm.parameters()]
    for change in (optimizer.eval, optimizer.train):
        change()
        assert all(torch.equal(a, b) for a, b in zip(lm.parameters(), start, strict=True)), "no average yet"
    for number in range(6):
        step(lm, optimizer, number)
        trained = [parameter.detach().clone() for parameter in lm.parameters()]
        for _ in range(2):  # a second call changes nothing
            optimizer.eval()
        assert all(torch.equal(parameter, optimizer.state[parameter]["x"]) for parameter in lm.parameters())
        same = [torch.equal(a, b) for a, b in zip(lm.parameters(), trained, strict=True)]
        assert all(same) if number == 0 else not any(same), "the first average has one element"
        for _ in range(2):
            optimizer.train()
        assert all(torch.equal(a, b) for a, b in zip(lm.parameters(), trained, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "adamw"])
def test_a_parameter_without_gradient_does_not_change(name: str) -> None:
    used, unused, bias = parameters_of(((4, 6), "matrix"), ((6, 4), "matrix"), ((4,), "vector"))
    optimizer = built(name, [used, unused, bias])
    before = [parameter.tensor.detach().clone() for parameter in (used, unused, bias)]
    for number in range(2):
        set_gradients([used], number)
        optimizer.step()
    assert not torch.equal(used.tensor, before[0])
    assert torch.equal(unused.tensor, before[1])
    assert torch.equal(bias.tensor, before[2])
