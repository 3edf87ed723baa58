"""Reading experiments: defaults, `extends`, overrides, and the errors of broken files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from torch import Tensor

from minigpt.contracts import Norm, NormSpec
from minigpt.errors import ExperimentError, MinigptError
from minigpt.experiment import Experiment
from minigpt.reading import load_experiment
from minigpt.reading.documents import defaults
from minigpt.registry import register
from minigpt.registry.overlay import merge


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_the_resolved_experiment_reads_back_as_itself(tmp_path: Path) -> None:
    experiment = load_experiment(
        {"model": {"attention": {"name": "gqa", "qk_norm": "rmsnorm"}, "layers": [{"norm": "rmsnorm"}]}}
    )
    again = load_experiment(write(tmp_path / "x.json", experiment.to_json()))
    assert again == experiment
    assert again.to_json() == experiment.to_json()


def test_every_default_is_written_out() -> None:
    resolved = load_experiment({}).to_json()
    assert resolved["model"]["norm"] == {"name": "layernorm", "eps": 1e-05, "bias": True}
    assert resolved["training"]["optimizer"]["learning_rate"] == 3e-4
    assert set(resolved) == set(Experiment.model_fields)


def test_files_extend_one_another(tmp_path: Path) -> None:
    write(
        tmp_path / "a.json",
        {"seed": 1, "model": {"d_model": 64, "n_heads": 4, "attention": {"name": "gqa", "n_kv_heads": 1}}},
    )
    write(tmp_path / "b.json", {"extends": "a.json", "model": {"attention": {"window": 8}, "ffn": {"expansion": 2.0}}})
    write(tmp_path / "sub" / "c.json", {"extends": "../b.json", "model": {"attention": "mha"}})
    b, c = load_experiment(tmp_path / "b.json"), load_experiment(tmp_path / "sub" / "c.json")
    assert (b.name, b.seed, b.model.d_model) == ("b", 1, 64)
    assert b.model.attention.params["n_kv_heads"] == 1, "parameters of the same component merge"
    assert b.model.attention.params["window"] == 8
    assert c.model.attention.name == "mha"
    assert c.model.attention.params["window"] is None, "another component starts from its own defaults"
    assert c.model.ffn.params == {"expansion": 2.0, "activation": "gelu", "bias": True}


@pytest.mark.parametrize(
    ("base", "overlay", "merged"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}}, {"a": 1, "b": {"c": 2, "d": 3}}),
        ({"x": {"name": "mha", "window": 4}}, {"x": {"name": "gqa"}}, {"x": {"name": "gqa"}}),
        (
            {"x": {"name": "mha", "window": 4}},
            {"x": {"name": "mha", "bias": False}},
            {"x": {"name": "mha", "window": 4, "bias": False}},
        ),
        ({"x": {"name": "mha", "window": 4}}, {"x": "mha"}, {"x": {"name": "mha", "window": 4}}),
        ({"x": {"name": "mha", "window": 4}}, {"x": "gqa"}, {"x": {"name": "gqa"}}),
        ({"x": "mha"}, {"x": {"window": 4}}, {"x": {"name": "mha", "window": 4}}),
        ({"x": None}, {"x": {"name": "a"}}, {"x": {"name": "a"}}),
        ({"x": [1, 2]}, {"x": [3]}, {"x": [3]}),
        ({"x": {"y": 1}}, {"x": None}, {"x": None}),
    ],
)
def test_merging(base: Any, overlay: Any, merged: Any) -> None:
    assert merge(base, overlay) == merged


@given(st.sampled_from(list(defaults())))
def test_laying_a_default_over_itself_changes_nothing(key: str) -> None:
    assert merge(defaults()[key], defaults()[key]) == defaults()[key]


def test_overrides_come_last_and_are_json_or_text(tmp_path: Path) -> None:
    file = write(tmp_path / "x.json", {"training": {"max_iters": 3}})
    overrides = [
        "training.max_iters=7",
        "model.attention.name=gqa",
        "model.attention.n_kv_heads=3",
        "description=a = b",
        "sampling.sampler.top_k=null",
    ]
    experiment = load_experiment(file, overrides=overrides)
    assert experiment.training.max_iters == 7
    assert experiment.model.attention.params["n_kv_heads"] == 3
    assert experiment.description == "a = b"
    assert load_experiment(file, overrides=['model.norm={"name": "rmsnorm", "eps": 0.1}']).model.norm.params["eps"] == 0.1
    assert load_experiment(file, overrides=["model.norm=rmsnorm"]).model.norm.name == "rmsnorm"


def test_paths_in_a_parent_start_from_the_parent(tmp_path: Path) -> None:
    write(tmp_path / "base" / "a.json", {"data": {"name": "text", "paths": ["corpus.txt"]}})
    file = write(tmp_path / "b.json", {"extends": "base/a.json"})
    assert load_experiment(file).data.params["paths"] == [str(tmp_path / "base" / "corpus.txt")]


def test_a_byte_order_mark_and_schema_key_are_fine(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"$schema": "whatever", "seed": 3}')
    assert load_experiment(tmp_path / "x.json").seed == 3


# Each entry: the content of the file, and part of the expected error line. Bytes are written unchanged.
BROKEN: list[tuple[Any, str]] = [
    # not JSON, or not strict JSON
    ("", "not JSON: Expecting value (line 1, column 1)"),
    ("{", "not JSON: Expecting property name"),
    ("{'seed': 1}", "not JSON: Expecting property name enclosed in double quotes"),
    ('{"seed": 1,}', "not JSON"),
    ('{"seed": 1} {"seed": 2}', "not JSON: Extra data"),
    ('{"seed": 1} trailing', "not JSON: Extra data"),
    ('{"seed": 1, "seed": 2}', 'the key "seed" occurs twice'),
    ('{"model": {"d_model": 8, "d_model": 16}}', 'the key "d_model" occurs twice'),
    ('{"model": {"dropout": NaN}}', "NaN is not JSON"),
    ('{"model": {"dropout": Infinity}}', "Infinity is not JSON"),
    ('{"model": {"dropout": 1e999}}', "1e999 is too large a number"),
    ('{"seed": 01}', "not JSON"),
    ('{"seed": 1 // comment\n}', "not JSON"),
    ("[" * 100_000, "nested too deeply"),
    ("[]", "found [] (list); allowed: an object"),
    ("3", "found 3 (number); allowed: an object"),
    ('"seed"', 'found "seed" (text); allowed: an object'),
    ("null", "found null; allowed: an object"),
    (b'{"name": "caf\xe9"}', "not UTF-8 (byte 13)"),
    ('{"seed": 1}'.encode("utf-16"), "not UTF-8 (byte 0)"),
    (b"\x80\x04\x95pickle", "not UTF-8 (byte 0)"),
    (" " * (1 << 20) + "{}", "larger than 1,048,576 bytes"),
    # unknown keys
    ({"modle": {}}, 'modle: unknown key "modle"; allowed: $schema, data, description, extends, model, name, plugins'),
    ({"modle": {}}, 'did you mean "model"?'),
    ({"model": {"dmodel": 8}}, 'model.dmodel: unknown key "dmodel"; allowed: attention, block'),
    ({"model": {"n_layer": 8}}, 'did you mean "n_layers"?'),
    ({"training": {"lr": 1}}, 'training.lr: unknown key "lr"'),
    ({"training": {"optimizer": {"lr": 1}}}, 'training.optimizer.lr: unknown key "lr"; allowed: betas, eps, learning_rate'),
    ({"sampling": {"sampler": {"topk": 3}}}, 'did you mean "top_k"?'),
    ({"model": {"attention": {"name": "mha", "n_kv_heads": 2}}}, 'model.attention.n_kv_heads: unknown key "n_kv_heads"'),
    ({"model": {"layers": [{}, {"atention": "mha"}]}}, 'model.layers[1].atention: unknown key "atention"'),
    # unknown names
    (
        {"model": {"attention": "gqaa"}},
        'model.attention: "gqaa" is not an attention that is registered; known: cope, delta_net, ',
    ),
    ({"model": {"attention": "GQA"}}, 'did you mean "gqa"?'),
    ({"model": {"norm": {"name": "layer_norm"}}}, 'did you mean "layernorm"?'),
    ({"model": {"layers": [{"ffn": "mpl"}]}}, 'model.layers[0].ffn: "mpl" is not a ffn'),
    (
        {"tokenizer": "bytes"},
        'tokenizer: "bytes" is not a tokenizer that is registered; known: bpe, byte, char, word; did you mean "byte"?',
    ),
    ({"data": "tiny_shakespeare"}, 'did you mean "tinyshakespeare"?'),
    ({"training": {"optimizer": "adam"}}, 'training.optimizer: "adam" is not an optimizer'),
    ({"training": {"schedule": {"name": "cosin"}}}, 'did you mean "cosine"?'),
    ({"model": {"attention": "minigpt.components.attention.mha"}}, "is not an attention that is registered"),
    ({"model": {"attention": {"qk_norm": "rms"}, "name": 1}}, 'model.attention.qk_norm: "rms" is not a norm'),
    # wrong types
    ({"seed": "1337"}, 'seed: found "1337" (text); allowed: a whole number'),
    ({"seed": 1.5}, "seed: found 1.5 (number); allowed: a whole number"),
    ({"seed": True}, "seed: found true (true/false); allowed: a whole number"),
    ({"seed": None}, "seed: found null; allowed: a whole number"),
    ({"name": 3}, "name: found 3 (number); allowed: text in quotes"),
    ({"model": []}, "model: found [] (list); allowed: an object"),
    ({"model": "small"}, 'model: found "small" (text); allowed: an object'),
    ({"model": {"embedding": {"tied": 1}}}, "model.embedding.tied: found 1 (number); allowed: true or false"),
    ({"model": {"layers": {}}}, "model.layers: found {} (object); allowed: a list"),
    ({"model": {"layers": ["mha"]}}, 'model.layers[0]: found "mha" (text); allowed: an object'),
    ({"model": {"attention": 3}}, "model.attention: found 3 (number); allowed: a name, or"),
    ({"model": {"attention": ["mha"]}}, 'model.attention: found ["mha"] (list); allowed: a name, or'),
    ({"model": {"attention": None}}, "model.attention: found null; allowed: a name, or"),
    ({"model": {"attention": {"name": 3}}}, "model.attention.name: found 3 (number); allowed: one of cope, delta_net, "),
    ({"training": {"optimizer": {"betas": 0.9}}}, "training.optimizer.betas: found 0.9 (number); allowed: a list"),
    ({"training": {"optimizer": {"betas": [0.9, "x"]}}}, 'training.optimizer.betas[1]: found "x" (text); allowed: a number'),
    ({"plugins": "a.py"}, 'plugins: found "a.py" (text); allowed: a list'),
    ({"plugins": [3]}, "plugins[0]: found 3 (number); allowed: text"),
    ({"data": {"name": "text", "paths": "a.txt"}}, "data.paths: found"),
    ({"data": "text"}, "data.paths: is required and has no default"),
    # impossible values
    ({"seed": -1}, "seed: found -1 (number); allowed: at least 0"),
    ({"seed": 2**32}, "seed: found 4294967296 (number); allowed: less than 4294967296"),
    ({"seed": 10**400}, "seed: found 1000000"),
    ({"name": "../up"}, 'name: found "../up" (text); allowed: text that matches'),
    ({"name": ""}, "name: found"),
    ({"model": {"d_model": 0}}, "model.d_model: found 0 (number); allowed: more than 0"),
    ({"model": {"d_model": 10**9}}, "model.d_model: found 1000000000 (number); allowed: at most 131072"),
    ({"model": {"n_layers": -2}}, "model.n_layers: found -2 (number); allowed: more than 0"),
    ({"model": {"dropout": 1.0}}, "model.dropout: found 1.0 (number); allowed: less than 1"),
    ({"model": {"dropout": -0.1}}, "model.dropout: found -0.1 (number); allowed: at least 0"),
    ({"training": {"batch_size": 0}}, "training.batch_size: found 0"),
    ({"training": {"precision": "fp8"}}, "training.precision: found \"fp8\" (text); allowed: 'auto', 'fp32' or 'bf16'"),
    (
        {"training": {"optimizer": {"learning_rate": 0}}},
        "training.optimizer.learning_rate: found 0 (number); allowed: more than 0",
    ),
    (
        {"training": {"schedule": {"warmup_ratio": 1}}},
        "training.schedule.warmup_ratio: found 1 (number); allowed: less than 1",
    ),
    ({"data": {"name": "text", "paths": []}}, "data.paths: found [] (list); allowed: at least this many items: 1"),
    ({"sampling": {"sampler": {"top_p": 0}}}, "sampling.sampler.top_p: found 0 (number); allowed: more than 0"),
    ({"sampling": {"stop": [""]}}, 'sampling.stop[0]: found "" (text); allowed: string should have at least 1 character'),
    (
        {"model": {"attention": {"name": "mha", "window": 0}}},
        "model.attention.window: found 0 (number); allowed: more than 0",
    ),
    # impossible combinations
    ({"model": {"n_heads": 5}}, "model.n_heads: n_heads 5 does not divide d_model 384"),
    (
        {"model": {"attention": {"name": "gqa", "n_kv_heads": 4}}},
        "model.attention: gqa: n_kv_heads 4 does not divide n_heads 6",
    ),
    (
        {"model": {"position": "rope", "head_dim": 7}},
        "model.position: rope: rotation needs pairs of coordinates: head_dim 7",
    ),
    (
        {"model": {"position": "sinusoidal", "d_model": 9, "n_heads": 3}},
        "model.position: sinusoidal: sines and cosines need pairs of coordinates",
    ),
    (
        {"training": {"schedule": {"name": "wsd", "warmup_ratio": 0.5, "decay_ratio": 0.9}}},
        "training.schedule: wsd: warmup_ratio 0.5",
    ),
    (
        {"model": {"layers": [{"position": "learned"}, {"position": "sinusoidal"}]}},
        "model.layers[1].position: sinusoidal is added",
    ),
    (
        {"model": {"layers": [{"attention": {"name": "gqa", "n_kv_heads": 4}}]}},
        "model.layers[0].attention: gqa: n_kv_heads 4",
    ),
    # lone surrogates anywhere
    ({"model": {"ffn": "\ud800"}}, "not JSON as experiments use it: it contains half a character (\\ud800)"),
    ({"tokenizer": "\udc00"}, "half a character (\\udc00)"),
    ({"plugins": ["\ud800"]}, "half a character"),
    ({"model": {"ffn": {"name": "glu", "\ud800": 1}}}, "half a character"),
    ({"data": {"name": "text", "paths": ["\ud800"]}}, "half a character"),
    # extends
    ({"extends": "nowhere.json"}, 'broken.json: extends: "nowhere.json" (text): there is no such file'),
    ({"extends": "brokn.json"}, '"brokn.json" (text): there is no such file; did you mean "broken.json"?'),
    ({"extends": "\0"}, "extends: "),
    ({"plugins": ["\0"]}, "is not a valid path"),
    ({"model": {"n_layers": 1, "layers": [{}, {}]}}, "model.layers: a pattern of 2 layers, but the model has 1"),
    ({"extends": "broken.json"}, "extends: the files extend each other in a cycle: broken.json -> broken.json"),
    ({"extends": 3}, "extends: found 3 (number); allowed: the path of a JSON file"),
    ({"extends": "."}, "cannot be read: Is a directory"),
    ({"plugins": ["nowhere.py"]}, "there is no plugin file"),
]


@pytest.mark.parametrize(("content", "expected"), BROKEN, ids=[str(number) for number in range(len(BROKEN))])
def test_a_broken_file_gives_one_clear_error_line_and_exit_code_2(
    content: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from minigpt.cli import main

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "broken.json"
    file.write_bytes(content) if isinstance(content, bytes) else write(file, content)
    with pytest.raises(SystemExit) as stop:
        main(["run", "broken.json"])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert expected in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err
    for line in printed.err.splitlines():
        assert line.startswith("error: ")
        assert len(line) < 400
    # one line per problem; a few files above have two problems
    assert len(printed.err.splitlines()) <= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.json"], "nothing was written"


def test_there_are_at_least_sixty_broken_files() -> None:
    assert len(BROKEN) >= 60


def test_an_object_may_extend_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base.json", {"seed": 7, "model": {"attention": {"name": "gqa", "n_kv_heads": 3}}})
    experiment = load_experiment({"extends": "base.json", "model": {"attention": {"window": 8}}})
    assert experiment.seed == 7
    assert (experiment.model.attention.params["n_kv_heads"], experiment.model.attention.params["window"]) == (3, 8)
    with pytest.raises(ExperimentError, match=r"extends: found 3 \(number\); allowed: the path of a JSON file"):
        load_experiment({"extends": 3})
    with pytest.raises(ExperimentError, match='extends: "nowhere.json" .text.: there is no such file'):
        load_experiment({"extends": "nowhere.json"})


class Options(BaseModel):
    norm: NormSpec


def test_every_component_has_its_path() -> None:
    @register("norm", "optioned")
    class Optioned(Norm):
        def __init__(self, width: int, *, options: Options):
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x

    document = {
        "model": {
            "attention": {"name": "gla", "norm": {"name": "layernorm", "eps": 0.5}},
            "embedding": {"norm": {"name": "optioned", "options": {"norm": "rmsnorm"}}},
            "layers": [{"attention": {"name": "mha", "qk_norm": "scalenorm"}}, {"ffn": "glu"}],
        },
        "training": {"optimizer": "muon"},
    }
    experiment = load_experiment(document, overrides=["model.position=none"])
    places = {spec.where: spec.name for spec in experiment.specs()}
    assert places == {
        "data": "tinyshakespeare",
        "tokenizer": "char",
        "model.embedding": "table",
        "model.init": "gpt2",
        "model.objective": "next_token",
        "model.embedding.norm": "optioned",
        "model.embedding.norm.options.norm": "rmsnorm",
        "model.attention": "gla",
        "model.attention.norm": "layernorm",
        "model.position": "none",
        "model.norm": "layernorm",
        "model.ffn": "mlp",
        "model.block": "pre_norm",
        "model.layers[0].attention": "mha",
        "model.layers[0].attention.qk_norm": "scalenorm",
        "model.layers[1].ffn": "glu",
        "training.batching": "windows",
        "training.optimizer": "muon",
        "training.optimizer.rest": "adamw",
        "training.schedule": "cosine",
        "sampling.sampler": "filtered",
    }
    document["model"]["layers"][1]["attention"] = "gqa"  # type: ignore[index]
    unused = load_experiment(document, overrides=["model.position=none"])
    assert "model.attention" not in {spec.where for spec in unused.specs()}, "no layer uses the model's attention"
    assert unused.model.attention.where == "model.attention"


def test_a_longer_cycle_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"extends": "b.json"})
    write(tmp_path / "b.json", {"extends": "c.json"})
    write(tmp_path / "c.json", {"extends": "b.json"})
    with pytest.raises(
        ExperimentError, match=r"extends: the files extend each other in a cycle: b.json -> c.json -> b.json"
    ):
        load_experiment(tmp_path / "a.json")


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=1", ".=1"])
def test_an_override_without_path_or_value_is_refused(override: str) -> None:
    with pytest.raises(ExperimentError, match=r"--set: found .*; allowed: path=value"):
        load_experiment({}, overrides=[override])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "model", "norm", "eps", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(["model", "training", "data", "sampling", "seed", "plugins", "name", "tokenizer"]), json_values)
def test_any_value_of_a_section_is_read_or_refused_in_one_line(key: str, value: Any) -> None:
    try:
        load_experiment({key: value}, allow_plugins=False)
    except MinigptError as error:  # any other exception fails the test
        line = str(error).strip()
        assert line
        assert "Error" not in line
