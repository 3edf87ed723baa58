from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.contracts import Context, Position
from minigpt.errors import ExperimentError
from minigpt.experiment import ModelSection
from minigpt.model import GPT, build_model, build_model_on_meta
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, register
from tests.rounding import assert_formula
from tests.strategies import model_with_large_weights, tokens


def section(**changes: object) -> ModelSection:
    small = {"d_model": 16, "n_heads": 4, "n_layers": 2, "block_size": 12, "dropout": 0.0}
    return ModelSection.model_validate({**small, **changes})


def test_the_documented_model_has_10_770_816_parameters() -> None:
    assert build_model_on_meta(ModelSection(), 65).n_parameters() == 10_770_816
    assert build_model(load_experiment("experiments/baseline.json"), 65).n_parameters() == 10_770_816


def test_the_baseline_is_the_default_experiment() -> None:
    default = load_experiment({}).to_json()
    baseline = load_experiment("experiments/baseline.json").to_json()
    assert {**baseline, "name": "", "description": ""} == {**default, "name": "", "description": ""}


def gpt2(weights: dict[str, Tensor], ids: Tensor, layers: int, heads: int) -> Tensor:
    """GPT-2 written from the paper, in the precision of its weights."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]
            + weights[f"{name}.bias"]
        )

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    time = ids.shape[1]
    mask = torch.full((time, time), -torch.inf, dtype=torch.float64).triu(1)
    x = weights["embedding.weight"][ids] + weights["positions.0.table.weight"][:time]
    for layer in range(layers):
        at = f"blocks.{layer}"
        q, k, v = linear(norm(x, f"{at}.attention_norm"), f"{at}.attention.qkv").chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = (q @ k.mT / math.sqrt(q.shape[-1]) + mask).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{at}.attention.out")
        hidden = linear(norm(x, f"{at}.ffn_norm"), f"{at}.ffn.into")
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), f"{at}.ffn.out")
    return norm(x, "norm") @ weights["embedding.weight"].T


def test_the_baseline_is_gpt2_logit_for_logit() -> None:
    model = model_with_large_weights(section()).double()
    ids = tokens(3, 12, 5)
    expected = gpt2(model.state_dict(), ids, 2, 4)
    with torch.no_grad():
        assert_formula(model(ids), expected)


def test_the_loss_is_the_mean_cross_entropy_over_the_targets_that_count() -> None:
    model = model_with_large_weights(section()).double()
    ids, targets = tokens(3, 12, 1), tokens(3, 12, 2)
    mask = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)) < 0.4
    with torch.no_grad():
        each = -F.log_softmax(model(ids), -1).gather(-1, targets[..., None]).squeeze(-1)
        assert_formula(model.loss(ids, targets)[0], each.mean())
        assert_formula(model.loss(ids, targets, mask)[0], each[mask].mean())
        assert model.loss(ids, targets)[1] == 0


def test_the_z_loss_is_the_mean_squared_log_partition_over_the_targets_that_count() -> None:
    model = model_with_large_weights(
        section(objective={"name": "next_token", "z_loss": 0.5}, embedding={"name": "table", "softcap": 4.0})
    ).double()
    ids, targets = tokens(3, 12, 1), tokens(3, 12, 2)
    mask = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)) < 0.4
    plain = model_with_large_weights(section(embedding={"name": "table", "softcap": 4.0})).double()
    with torch.no_grad():
        squares = model(ids).exp().sum(-1).log().square()
        for counted, expected in ((None, squares.mean()), (mask, squares[mask].mean())):
            loss, auxiliary = model.loss(ids, targets, counted)
            assert_formula(auxiliary, 0.5 * expected)
            assert loss == plain.loss(ids, targets, counted)[0], "the reported loss is only the cross-entropy"


def test_the_softcap_bounds_the_logits_by_a_tanh() -> None:
    capped, plain = (
        model_with_large_weights(section(embedding={"name": "table", "softcap": 2.0})).double(),
        model_with_large_weights(section()).double(),
    )
    ids = tokens(2, 12, 0)
    with torch.no_grad():
        assert plain(ids).abs().max() > 2
        assert_formula(capped(ids), 2 * torch.tanh(plain(ids) / 2))


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1.0), (3.0, 3.0), ("sqrt", 4.0)])
@pytest.mark.parametrize("norm", [None, "rmsnorm"])
def test_embeddings_are_normalised_then_scaled_before_positions_are_added(
    scale: float | str, factor: float, norm: str | None
) -> None:
    model = model_with_large_weights(section(embedding={"name": "table", "scale": scale, "norm": norm})).double()
    seen: list[Tensor] = []
    model.dropout.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    ids = tokens(2, 12, 0)
    model(ids)
    expected = model.embedding.weight[ids]
    if norm is not None:
        assert model.embedding.norm is not None
        expected = expected / (expected.square().mean(-1, keepdim=True) + 1e-6).sqrt() * model.embedding.norm.weight
    expected = factor * expected + model.positions[0].table.weight[:12]
    assert_formula(seen[0], expected)


@pytest.mark.parametrize("tied", [True, False])
def test_unit_embeddings_make_the_logits_scaled_cosines_after_every_update(tied: bool) -> None:
    model = GPT(
        section(
            embedding={"name": "table", "unit": True, "tied": tied}, norm={"name": "rmsnorm", "gain": False, "eps": 1e-30}
        ),
        23,
    )
    assert torch.equal(model.embedding.logit_scale, torch.full((23,), 16**-0.5))
    model.double().after_step()
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    for _ in range(2):
        x = model.hidden(tokens(2, 12, 0))[0]
        rows = model.embedding.weight if model.head is None else model.head.weight
        for weight in (model.embedding.weight, rows):
            assert_formula(weight.norm(dim=-1), torch.ones(23, dtype=torch.float64))
        cosines = F.cosine_similarity(x[:, :, None], rows, dim=-1)
        assert_formula(model.logits(x), 16**0.5 * model.embedding.logit_scale * cosines)
        model.loss(tokens(2, 12, 0), tokens(2, 12, 1))[0].backward()
        optimizer.step()
        model.after_step()


def test_outputs_are_the_residual_stream_before_each_block_and_layers_have_their_index() -> None:
    block = REGISTRY.family("block").base
    seen: list[tuple[int, int, int]] = []
    with REGISTRY.temporarily():

        @register("block", "looking")
        class Looking(block):  # type: ignore[valid-type, misc]
            """Checks that the last output is its input."""

            def __init__(self, dims: Any, layer: Any):
                super().__init__()
                self.place = (dims.layer, dims.occurrence)

            def forward(self, x: Tensor, ctx: Any, state: object = None) -> Tensor:
                assert ctx.outputs[-1] is x
                seen.append((*self.place, len(ctx.outputs)))
                return x + 1

        pattern = [{"attention": "gqa"}, {}]
        model = GPT(section(n_layers=3, layers=pattern, block="looking", position="none"), 23)
    x = model.hidden(tokens(2, 12, 0))[0]
    assert x.shape == (2, 12, 16)
    assert seen == [(0, 0, 1), (1, 0, 2), (2, 1, 3)]


def test_each_layer_receives_its_own_position_and_the_shared_values() -> None:
    lm = GPT(section(n_layers=3, position="rope", layers=[{}, {"position": "alibi"}, {}]), 23)
    contexts: list[Context] = []
    for block in lm.blocks:
        block.register_forward_pre_hook(lambda _, arguments: contexts.append(arguments[1]))
    with torch.no_grad():
        lm(torch.tensor([[1, 2]]))
    assert [type(ctx.position).__name__ for ctx in contexts] == ["RotaryPosition", "ALiBi", "RotaryPosition"]
    for left in ("losses", "outputs", "shared"):
        assert len({id(getattr(ctx, left)) for ctx in contexts}) == 1, f"layers do not share their {left}"
    assert len(contexts[0].outputs) == 4


def test_blocks_of_one_form_in_a_row_enter_once_and_leave_once() -> None:
    block = REGISTRY.family("block").base
    forms: list[str] = []
    with REGISTRY.temporarily():

        @register("block", "doubled")
        class Doubled(block):  # type: ignore[valid-type, misc]
            """Two streams; the second counts blocks."""

            def __init__(self, dims: Any, layer: Any):
                super().__init__()

            def enter(self, x: Tensor) -> Tensor:
                forms.append("enter")
                return torch.stack((x, torch.zeros_like(x)), 2)

            def leave(self, x: Tensor) -> Tensor:
                return x.sum(2)

            def forward(self, x: Tensor, ctx: Any, state: object = None) -> Tensor:
                assert x.ndim == 4
                return x + torch.tensor([0.0, 1.0])[:, None]

        def built(pattern: list[dict[str, str]]) -> GPT:
            return GPT(section(n_layers=4, layers=pattern, norm="none", position="none"), 23)

        doubled, plain = {"block": "doubled"}, {"block": "rezero"}  # rezero starts as the identity
        for pattern, entries in (([doubled], 1), ([doubled, plain], 2), ([doubled, doubled, plain, doubled], 2)):
            forms.clear()
            model = built(pattern).double()
            ids = tokens(2, 12, 0)
            passed = sum(pattern[index % len(pattern)] is doubled for index in range(4))
            assert_formula(model.hidden(ids)[0], model.embedding.weight[ids] + passed)
            assert forms == ["enter"] * entries


def test_initial_weights_follow_gpt2() -> None:
    model = build_model(load_experiment({"model": {"d_model": 192, "n_heads": 4}}), 65)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            residual = name.endswith(".out")
            expected = 0.02 / math.sqrt(2 * 6) if residual else 0.02
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name
            assert module.weight.mean().item() == pytest.approx(0, abs=2e-3), name
            if getattr(module, "bias", None) is not None:
                assert not module.bias.any(), name


def test_an_untrained_model_predicts_about_uniformly() -> None:
    model = build_model(load_experiment({}), 65).eval()
    with torch.no_grad():
        loss = model.loss(tokens(4, 256, 0), tokens(4, 256, 1))[0]
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)


def test_building_does_not_change_the_callers_random_state() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    build_model(load_experiment({"model": {"d_model": 16, "n_heads": 2}}), 10)
    assert torch.equal(before, torch.random.get_rng_state())


def test_layers_repeat_their_pattern_and_default_to_the_models_choice() -> None:
    experiment = load_experiment(
        {
            "model": {
                "d_model": 16,
                "n_heads": 4,
                "n_layers": 5,
                "attention": {"name": "mha", "bias": False},
                "layers": [{"attention": {"window": 4}}, {"attention": "gqa", "position": "rope"}, {}],
            }
        }
    )
    model = GPT(experiment.model, 10)
    windows = [block.attention.window for block in model.blocks]
    assert windows == [4, None, None, 4, None]
    assert [type(block.attention).__name__[:5] for block in model.blocks] == ["Multi", "Group", "Multi", "Multi", "Group"]
    assert model.blocks[0].attention.qkv.bias is None, "the layer changes the window and keeps the model's bias"
    assert model.position_of_layer == [0, 1, 0, 0, 1]
    assert len(model.positions) == 2, "layers with equal choices share one position"


def test_roles_distinguish_matrices_embeddings_head_and_vectors() -> None:
    roles = {p.name: p.role for p in GPT(section(embedding={"name": "table", "tied": False}), 10).named_roles()}
    assert roles["embedding.weight"] == roles["positions.0.table.weight"] == "embedding"
    assert roles["head.weight"] == "head"
    assert roles["blocks.0.attention.qkv.weight"] == "matrix"
    assert roles["blocks.0.attention.qkv.bias"] == roles["norm.weight"] == "vector"


def test_a_parameter_names_the_layer_that_it_is_in() -> None:
    layers = {
        p.name: p.layer for p in GPT(section(n_layers=12, embedding={"name": "table", "tied": False}), 10).named_roles()
    }
    assert {name for name, layer in layers.items() if layer is None} == {
        "embedding.weight",
        "positions.0.table.weight",
        "norm.weight",
        "norm.bias",
        "head.weight",
    }
    assert all(name.startswith(f"blocks.{layer}.") for name, layer in layers.items() if layer is not None)
    assert layers["blocks.11.attention.qkv.weight"] == 11


def test_parameters_declared_elementwise_are_not_matrices() -> None:
    model = GPT(section(attention="short_conv", position="kerple", layers=[{"position": "none"}]), 10)
    roles = {p.name: p.role for p in model.named_roles()}
    assert roles["blocks.0.attention.convolution.weight"] == "vector"
    assert roles["blocks.0.attention.into.weight"] == "matrix"


def test_a_position_that_a_mixer_would_ignore_is_refused() -> None:
    with REGISTRY.temporarily():

        @register("attention", "mean")
        class CausalMean(REGISTRY.family("attention").base):  # type: ignore[name-defined, misc]
            """The mean of earlier inputs."""

            def __init__(self, dims: object):
                super().__init__()

            def forward(self, x: object, ctx: object, state: object = None) -> object:
                return x

        with pytest.raises(
            ExperimentError, match=r'model.position: CausalMean \(layer 0\) does not apply rotate of position "rope"'
        ):
            load_experiment({"model": {"attention": "mean", "position": "rope"}})


def test_a_mixer_made_of_mixers_declares_their_hooks() -> None:
    attention = REGISTRY.family("attention").base

    class Inner(attention):  # type: ignore[valid-type, misc]
        def forward(self, x: object, ctx: object, state: object = None) -> object:
            return x

    with REGISTRY.temporarily():

        @register("attention", "composite")
        class Composite(attention):  # type: ignore[valid-type, misc]
            """Applies rotation, although one of its parts does not."""

            uses = frozenset({"rotate"})

            def __init__(self, dims: object):
                super().__init__()
                self.inner = Inner()

            def forward(self, x: object, ctx: object, state: object = None) -> object:
                return self.inner(x, ctx)

        load_experiment({"model": {"attention": "composite", "position": "rope"}})


def test_a_position_beyond_learned_positions_is_an_error_and_not_a_crash() -> None:
    model = GPT(section(), 23)
    with pytest.raises(ValueError, match="position 12 is too large: the model's positions end at 11"):
        model(tokens(1, 13, 0))
    assert GPT(section(position="rope"), 23)(tokens(1, 13, 0)).shape == (1, 13, 23)


def test_a_single_layer_cannot_choose_a_position_that_embeds() -> None:
    with pytest.raises(ExperimentError, match=r"model.layers\[1\].position: sinusoidal is added to the embeddings"):
        load_experiment({"model": {"position": "none", "layers": [{}, {"position": "sinusoidal"}]}})


def test_dropout_acts_only_in_training_and_follows_the_seed() -> None:
    model = model_with_large_weights(section(dropout=0.5))
    ids = tokens(2, 12, 0)
    with torch.no_grad():
        assert torch.equal(model(ids), model(ids))
        model.train()
        torch.manual_seed(1)
        first = model(ids)
        second = model(ids)
        torch.manual_seed(1)
        assert torch.equal(first, model(ids))
    assert not torch.equal(first, second)


def test_hooks_are_the_methods_that_a_position_overrides() -> None:
    names = {entry.name: entry.cls for entry in REGISTRY.entries("position")}
    dims = section().dims(10)
    hooks = {name: cls(dims).hooks for name, cls in names.items() if issubclass(cls, Position)}
    assert hooks["learned"] == hooks["sinusoidal"] == {"embed"}
    assert hooks["rope"] == {"rotate"}
    assert hooks["none"] == frozenset()
