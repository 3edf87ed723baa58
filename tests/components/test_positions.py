"""Each position mechanism against its paper's formula, in float64."""

from __future__ import annotations

import cmath
import math
from typing import Any

import pytest
import torch

from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY
from tests.components.formulas import DIMS, build
from tests.rounding import assert_formula, normal

PLACES = torch.arange(9)


def rope_reference(x: torch.Tensor, place: int, frequencies: list[float], temperature: float = 1.0) -> list[float]:
    """One vector with its pairs rotated as complex numbers."""
    half = len(frequencies)
    turned = [
        complex(x[i], x[i + half]) * cmath.exp(1j * place * frequency) * temperature
        for i, frequency in enumerate(frequencies)
    ]
    return [z.real for z in turned] + [z.imag for z in turned] + x[2 * half :].tolist()


def check_rope(rope: Any, width: int, frequencies: list[float], temperature: float = 1.0) -> None:
    q, k = normal(1, 4, 9, width), normal(1, 2, 9, width)
    for got, x in zip(rope.rotate(q, k, PLACES + 40), (q, k), strict=True):
        for head in range(x.shape[1]):
            for t in range(9):
                expected = rope_reference(x[0, head, t], t + 40, frequencies, temperature)
                assert_formula(got[0, head, t], torch.tensor(expected, dtype=torch.float64))


def frequencies(width: int, base: float = 10_000.0) -> list[float]:
    return [base ** (-2 * i / width) for i in range(width // 2)]


DIMS16 = DIMS.__class__(**{**DIMS.__dict__, "head_dim": 16})


def test_partial_rope_rotates_the_first_coordinates_and_keeps_the_rest() -> None:
    check_rope(build("position", "rope", DIMS16, fraction=0.25, base=500.0), 16, frequencies(4, 500.0))


def test_linear_scaling_divides_positions() -> None:
    rope = build("position", "rope", DIMS16, scaling={"kind": "linear", "factor": 4.0})
    check_rope(rope, 16, [f / 4 for f in frequencies(16)])


def test_ntk_scaling_raises_the_base() -> None:
    rope = build("position", "rope", DIMS16, scaling={"kind": "ntk", "factor": 4.0})
    check_rope(rope, 16, frequencies(16, 10_000.0 * 4 ** (16 / 14)))


@pytest.mark.parametrize(("truncate", "length"), [(True, 64), (False, 2048)])
def test_yarn_computes_the_papers_formula(truncate: bool, length: int) -> None:
    """Equations 17 to 22, for a factor of 8; the authors' code rounds the ends of the ramp outwards."""
    factor, alpha, beta = 8.0, 1.0, 32.0
    scaling = {"kind": "yarn", "factor": factor, "original_block_size": length, "truncate": truncate}
    rope = build("position", "rope", DIMS16, scaling=scaling)

    def place(turns: float) -> float:
        return 16 * math.log(length / (2 * math.pi * turns)) / (2 * math.log(10_000.0))

    low, high = place(beta), place(alpha)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(0, low), min(15, high)
    expected = []
    for i, f in enumerate(frequencies(16)):
        interpolated = min(1, max(0, (i - low) / (high - low)))
        expected.append(interpolated * f / factor + (1 - interpolated) * f)
    check_rope(rope, 16, expected, temperature=0.1 * math.log(factor) + 1)


def test_a_given_attention_factor_replaces_yarns_default() -> None:
    scaling = {"kind": "yarn", "factor": 8.0, "original_block_size": 64}
    own, given = (build("position", "rope", DIMS16, scaling={**scaling, **more}) for more in ({}, {"attention_factor": 1.0}))
    q, k = torch.randn(2, 1, 2, 9, 16)
    for sharpened, plain in zip(own.rotate(q, k, PLACES), given.rotate(q, k, PLACES), strict=True):
        longer = sharpened.double().norm(dim=-1) / plain.double().norm(dim=-1)
        assert (longer - (0.1 * math.log(8.0) + 1)).abs().max() < 16 * torch.finfo(torch.float32).eps
    assert given.keeps_norm
    assert not own.keeps_norm


def test_llama3_scaling_depends_on_the_wavelength() -> None:
    length, factor, low, high = 64, 8.0, 1.0, 4.0
    rope = build("position", "rope", DIMS16, scaling={"kind": "llama3", "factor": factor, "original_block_size": length})
    expected = []
    for f in frequencies(16):
        wavelength = 2 * math.pi / f
        if wavelength < length / high:
            expected.append(f)
        elif wavelength > length / low:
            expected.append(f / factor)
        else:
            smooth = (length / wavelength - low) / (high - low)
            expected.append((1 - smooth) * f / factor + smooth * f)
    assert len({round(e / f, 6) for e, f in zip(expected, frequencies(16), strict=True)}) >= 3, "all three cases occur"
    check_rope(rope, 16, expected)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"fraction": 0.5}, "head_dim 6 times fraction 0.5 must be even"),
        ({"fraction": 0.01}, "must be even"),
        ({"scaling": {"kind": "llama3", "factor": 2.0, "original_block_size": 8, "low_freq_factor": 5.0}}, "must be below"),
        ({"scaling": {"kind": "magic", "factor": 2.0}}, "scaling"),
        ({"scaling": {"kind": "yarn", "factor": 2.0}}, "original_block_size: is required"),
        ({"scaling": {"kind": "linear", "factor": 0.5}}, "factor: found 0.5"),
    ],
)
def test_invalid_rope_settings_are_reported(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        build("position", "rope", DIMS, **params)


def test_xpos_ends_before_its_keys_leave_fp32() -> None:
    xpos = REGISTRY.resolve("position", "xpos").build(DIMS)
    last = torch.tensor([xpos.max_positions - 1])
    for turned_head in xpos.rotate(torch.ones(1, 4, 1, 6), torch.ones(1, 4, 1, 6), last):
        assert torch.isfinite(turned_head).all()
    with pytest.raises(
        ExperimentError, match="scale_base 0.1 makes keys larger than fp32 allows after 6 positions, and block_size is 16"
    ):
        REGISTRY.resolve("position", {"name": "xpos", "scale_base": 0.1}).build(DIMS)


def test_xpos_scores_match_the_paper_and_depend_on_distance_only() -> None:
    xpos = build("position", "xpos", DIMS, scale_base=16.0)
    q, k = normal(1, 1, 1, 6), normal(1, 1, 1, 6)
    z = [(2 * i / 6 + 0.4) / 1.4 for i in range(3)]

    def score(m: int, n: int) -> float:
        total = 0.0
        for i, f in enumerate(frequencies(6)):
            a, b = complex(q[0, 0, 0, i], q[0, 0, 0, i + 3]), complex(k[0, 0, 0, i], k[0, 0, 0, i + 3])
            total += (a * b.conjugate() * cmath.exp(1j * (m - n) * f)).real * z[i] ** ((m - n) / 16)
        return total

    for m, n in ((0, 0), (5, 2), (30, 30), (40, 3)):
        turned_q = xpos.rotate(q, k, torch.tensor([m]))[0]
        turned_k = xpos.rotate(q, k, torch.tensor([n]))[1]
        assert (turned_q * turned_k).sum().item() == pytest.approx(score(m, n), abs=1e-12)


def test_alibi_slopes_match_the_paper() -> None:
    def slopes(heads: int) -> list[float]:
        dims = DIMS.__class__(**{**DIMS.__dict__, "n_heads": heads})
        return (-build("position", "alibi", dims).bias(torch.tensor([1]), torch.tensor([0]))).flatten().tolist()

    def close(expected: list[float]) -> Any:
        return pytest.approx(expected, rel=1e-14)

    assert slopes(8) == close([2**-i for i in range(1, 9)])
    assert slopes(4) == close([2**-2, 2**-4, 2**-6, 2**-8])
    assert slopes(16) == close([2 ** (-i / 2) for i in range(1, 17)])
    # appendix A: for other numbers those of the next lower power of two, then every other one of the next higher
    assert slopes(6) == close([2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    assert slopes(10) == close([2**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5])
    bias = build("position", "alibi", DIMS).bias(torch.tensor([5]), torch.arange(6))
    assert bias[0, 0].tolist() == close([-(2**-2) * (5 - k) for k in range(6)])


def test_t5_buckets_match_the_paper() -> None:
    position = build("position", "t5", DIMS, buckets=8, max_distance=20)
    far = torch.arange(40)
    bias = position.bias(torch.tensor([39]), far)[:, 0]
    for k in range(40):
        distance = 39 - k
        bucket = distance if distance < 4 else min(7, 4 + int(math.log(distance / 4) / math.log(20 / 4) * 4))
        assert torch.equal(bias[:, k], position.table.weight[bucket]), distance


@pytest.mark.parametrize("kernel", ["log", "power"])
def test_kerple_computes_the_papers_formula(kernel: str) -> None:
    position = build("position", "kerple", DIMS, kernel=kernel)
    bias = position.bias(PLACES, PLACES)
    for head, (first, second) in enumerate(position.raw.detach().T.tolist()):
        a = math.exp(first)
        b = math.exp(second) if kernel == "log" else 2 / (1 + math.exp(-second))
        for m in range(9):
            for n in range(m + 1):
                expected = -a * math.log(1 + b * (m - n)) if kernel == "log" else -a * max(m - n, 1e-3) ** b
                assert bias[head, m, n].item() == pytest.approx(expected, rel=1e-12)


def test_fire_computes_the_papers_formula() -> None:
    position = build("position", "fire", DIMS, threshold=4.0, hidden=5)
    bias = position.bias(PLACES, PLACES)
    c, reach = abs(position.c.item()), abs(4.0 * position.threshold_scale.item())
    into, out = position.into, position.out
    for m in range(9):
        for n in range(m + 1):
            ratio = math.log(1 + c * (m - n)) / (math.log(1 + c * max(m, reach)) + 1e-6)
            hidden = (into.weight[:, 0] * ratio + into.bias).clamp(min=0)
            assert_formula(bias[:, m, n], out.weight @ hidden + out.bias)


@pytest.mark.parametrize("name", [entry.name for entry in REGISTRY.entries("position")])
def test_positions_without_a_limit_are_defined_far_beyond_the_block_size(name: str) -> None:
    position = build("position", name, DIMS)
    if position.max_positions is not None and position.max_positions < 1000:
        assert position.max_positions == DIMS.block_size
        return
    far = torch.arange(1000, 1000 + 5 * DIMS.block_size)
    q = normal(1, 4, len(far), 6)
    bias = position.bias(far, far)
    for result in (
        *position.rotate(q, q, far),
        position.embed(torch.zeros(1, len(far), 12, dtype=torch.float64), far),
        bias,
    ):
        assert result is None or torch.isfinite(result).all()
