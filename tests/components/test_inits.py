"""muP and CompleteP against their papers' tables, and the factors that a model applies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minigpt.contracts import Context, Factors, NamedParameter, ResidualLinear
from minigpt.errors import ExperimentError
from minigpt.experiment import ModelSection
from minigpt.model import GPT, optimizer_of
from minigpt.model.gpt import initialise
from minigpt.registry import REGISTRY, plugins
from tests.components.formulas import DIMS, build, context
from tests.rounding import assert_formula, normal

ROOT = Path(__file__).parents[2]
BASE = {"base_width": 32, "base_head_dim": 8}


def model(width: int = 128, head_dim: int = 16, layers: int = 8, tied: bool = False, **init: Any) -> GPT:
    torch.manual_seed(0)
    sizes = {"d_model": width, "n_heads": width // head_dim, "head_dim": head_dim, "n_layers": layers, "dropout": 0.0}
    return GPT(
        ModelSection.model_validate(
            {**sizes, "block_size": 16, "embedding": {"name": "table", "tied": tied}, "init": init or "gpt2"}
        ),
        97,
    )


def deviations(built: GPT) -> Iterator[tuple[str, float]]:
    """The measured deviation of every map and table, by kind."""
    for name, module in built.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            inside = "written" if isinstance(module, ResidualLinear) else "read"
            kind = "head" if name == "head" else "table" if isinstance(module, nn.Embedding) else inside
            yield kind, module.weight.std().item()


WIDTH, DEPTH = 128 / 32, 8 / 2
TABLES = {
    # Tensor Programs V, table 8, in the form of its appendix B.1 with Adam: hidden weights have a variance of 1/width.
    "mup": {
        "std": {"table": 0.02, "head": 0.02, "read": 0.02 / 2, "written": 0.02 / 2 / 4},
        "matrix": Factors(lr=1 / WIDTH, weight_decay=WIDTH),
        "vector": Factors(),
        "embedding": Factors(),
        "head": Factors(),
        "last norm": Factors(),
        "residual": 1.0,
    },
    # CompleteP, table 1, with alpha = 1.
    "completep": {
        "std": {"table": 0.02, "head": 0.02, "read": 0.02 / 2, "written": 0.02 / 2},
        "matrix": Factors(lr=1 / WIDTH, weight_decay=WIDTH, eps=1 / (WIDTH * DEPTH)),
        "vector": Factors(eps=1 / (WIDTH * DEPTH)),
        "embedding": Factors(eps=1 / WIDTH),
        "head": Factors(eps=1 / WIDTH),
        "last norm": Factors(eps=1 / WIDTH),
        "residual": 1 / DEPTH,
    },
}


@pytest.mark.parametrize("name", TABLES)
def test_deviations_and_factors_are_those_of_the_papers_table(name: str) -> None:
    table: dict[str, Any] = TABLES[name]
    built = model(name=name, **BASE)
    for kind, measured in deviations(built):
        assert measured == pytest.approx(table["std"][kind], rel=0.1), kind
    for parameter in built.named_roles():
        if parameter.layer is not None or parameter.role != "vector":
            assert built.init.factors(parameter) == table[parameter.role], parameter.name
        else:  # the final norm
            assert built.init.factors(parameter) == table["last norm"]
    assert built.init.logit_factor == 1 / WIDTH
    assert built.init.residual_factor == table["residual"]
    assert built.init.score_factor / math.sqrt(16) == pytest.approx(math.sqrt(8) / 16)  # 1/head_dim, usual at 8


@pytest.mark.parametrize("name", ["mup", "completep"])
@pytest.mark.parametrize("tied", [True, False])
def test_at_its_base_it_is_gpt2s(name: str, tied: bool) -> None:
    """CompleteP's residual deviations are not divided by sqrt(2 layers), so these weights differ."""
    base = {"base_width": 32, "base_head_dim": 8, **({"base_layers": 2} if name == "completep" else {})}
    own, usual = model(32, 8, 2, tied, name=name, **base), model(32, 8, 2, tied)
    if name == "completep":
        with torch.no_grad():
            for module in own.modules():
                if isinstance(module, ResidualLinear):
                    module.weight /= math.sqrt(2 * 2)
    for (where, one), (_, other) in zip(own.named_parameters(), usual.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0, msg=where)
    tokens = torch.arange(16)[None]
    torch.testing.assert_close(own(tokens), usual(tokens), rtol=1e-5, atol=1e-6)
    for parameter in own.named_roles():
        assert own.init.factors(parameter) == Factors()


SPARSE = {"summary_block": 4, "stride": 2, "select_block": 4, "selected": 3}


@pytest.mark.parametrize(
    ("name", "params"),
    [("mha", {}), ("gqa", {}), ("forgetting", {}), ("differential", {}), ("mla", {}), ("native_sparse", SPARSE)],
)
def test_scores_are_multiplied_by_the_factor_of_the_initialisation(name: str, params: dict[str, Any]) -> None:
    """A factor on scores is a factor on queries, and without positions a factor on the map that makes them."""
    x, ctx = normal(2, 12, 12), context(time=12)
    usual, scaled = (build("attention", name, replace(DIMS, score_factor=factor), **params) for factor in (1.0, 0.5))
    before = usual(x, ctx)
    for tensor in queries(usual):
        tensor.data.mul_(0.5)
    assert_formula(scaled(x, ctx), usual(x, ctx))
    assert (usual(x, ctx) - before).abs().max() > 1e-3


def queries(module: Any) -> Iterator[Tensor]:
    """The weights that make queries, and their biases."""
    layer = next(getattr(module, name) for name in ("qkv", "q_up", "q") if hasattr(module, name))
    n_queries = len(layer.weight)
    if hasattr(module, "qkv"):  # G keys and G values follow the queries
        n_queries -= 2 * module.n_kv_heads * module.head_dim
    yield from (tensor[:n_queries] for tensor in layer.parameters())


def test_outputs_of_sublayers_and_inputs_of_the_head_are_multiplied_by_their_factors() -> None:
    plain, built = model(32, 8, 2), model(32, 8, 2)
    with torch.no_grad():
        for each in (plain, built):
            each.double()
        built.init.residual_factor, built.init.logit_factor = 0.25, 0.5
        torch.manual_seed(0)
        initialise(built, built.init)
        built.load_state_dict(plain.state_dict())
        for module in plain.modules():
            if isinstance(module, ResidualLinear):
                module.weight.mul_(0.25)
                module.bias.mul_(0.25)
        tokens = torch.arange(16)[None]
        hidden: Tensor = plain.hidden(tokens)[0]
        assert_formula(built.hidden(tokens)[0], hidden)
        assert_formula(built(tokens), 0.5 * hidden @ plain.head.weight.T)


@pytest.mark.parametrize("name", ["mup", "completep"])
@pytest.mark.parametrize(
    ("optimizer", "refused"),
    [
        ("adamw", False),
        ("sgd", True),
        ("muon", True),
        ({"name": "muon", "scaling": "match_rms_adamw"}, False),
        ({"name": "muon", "scaling": "match_rms_adamw", "rest": "sgd"}, True),
        ({"name": "ema", "optimizer": "lion"}, False),
        ({"name": "ema", "optimizer": "sgd"}, True),
    ],
)
def test_an_optimizer_whose_steps_have_other_sizes_is_refused(name: str, optimizer: Any, refused: bool) -> None:
    recipe = REGISTRY.resolve("optimizer", optimizer)
    with pytest.raises(ExperimentError, match="training.optimizer: model.init scales") if refused else nullcontext():
        optimizer_of(recipe, model(name=name, **BASE))
    optimizer_of(recipe, model())


def test_factors_reach_the_optimizer() -> None:
    """Adam's first step has the size of the learning rate, so its size shows the factor."""
    built = model(name="mup", **BASE)
    before = {each.name: each.tensor.detach().clone() for each in built.named_roles()}
    recipe = REGISTRY.resolve("optimizer", {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.0})
    optimizer = optimizer_of(recipe, built)
    parameters: list[NamedParameter] = list(built.named_roles())
    for each in parameters:
        each.tensor.grad = torch.ones_like(each.tensor)
    optimizer.step()
    for each in parameters:
        factor = 1 / WIDTH if each.role == "matrix" else 1.0
        moved = (before[each.name] - each.tensor.detach()).mean().item()
        assert moved == pytest.approx(0.01 * factor, rel=1e-3), each.name


def test_experts_follow_the_initialisation() -> None:
    """Their weights are stacked, so they are no nn.Linear that an initialisation could find."""
    sizes = {"d_model": 64, "n_heads": 2, "n_layers": 2, "block_size": 16, "ffn": "moe", "dropout": 0.0}
    scaled = {"name": "completep", "base_width": 16, "base_head_dim": 32, "base_layers": 1}
    for init, into, out in (({"name": "gpt2", "std": 0.1}, 0.1, 0.05), (scaled, 0.01, 0.01)):
        experts = GPT(ModelSection.model_validate({**sizes, "init": init}), 23).blocks[0].get_submodule("ffn")
        assert experts.get_parameter("into").std().item() == pytest.approx(into, rel=0.05)
        assert experts.get_parameter("out").std().item() == pytest.approx(out, rel=0.05)
    torch.manual_seed(0)
    x, ctx = torch.randn(1, 8, 64), Context(torch.arange(8), nn.Module(), torch.zeros(1, 8, dtype=torch.long))  # type: ignore[arg-type]
    halved = experts(x, ctx)
    experts.residual_factor = 1.0
    assert torch.allclose(halved, 0.5 * experts(x, ctx), atol=1e-7)


@pytest.mark.parametrize("attention", ["gla", "short_conv"])
def test_a_mixer_that_would_ignore_the_factor_on_scores_is_refused(attention: str) -> None:
    sizes = {"d_model": 64, "n_heads": 4, "n_layers": 1, "block_size": 16, "dropout": 0.0, "attention": attention}
    section = ModelSection.model_validate({**sizes, "init": {"name": "mup", "base_width": 32, "base_head_dim": 4}})
    with pytest.raises(
        ExperimentError,
        match=r'does not apply factor 0.5 on attention scores of init "mup"; choose another mixer, or a factor of 1 \(mup and '
        r"completep: base_head_dim 16\)",
    ):
        GPT(section, 97)
    GPT(ModelSection.model_validate({**sizes, "init": {"name": "mup", "base_width": 32, "base_head_dim": 16}}), 97)


def test_talking_heads_and_the_template_apply_the_factor(tmp_path: Path) -> None:
    plugins.load_file(ROOT / "plugins" / "talking_heads.py")
    source = (ROOT / "minigpt/lab/scaffold/templates/attention.py").read_text("utf-8")
    (tmp_path / "my_part.py").write_text(source, "utf-8")
    plugins.load_file(tmp_path / "my_part.py")
    x, ctx = normal(2, 12, 12), context(time=12)
    for name in ("talking_heads", "my_part"):
        usual, scaled = (build("attention", name, replace(DIMS, score_factor=factor)) for factor in (1.0, 0.5))
        before = usual(x, ctx)
        for tensor in usual.qkv.parameters():
            tensor.data[: len(tensor) // 3] *= 0.5
        assert_formula(scaled(x, ctx), usual(x, ctx))
        assert (usual(x, ctx) - before).abs().max() > 1e-3
