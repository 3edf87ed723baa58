"""Each setting with which a run can be continued takes effect, to the bit, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minigpt.errors import RunError
from minigpt.experiment import Experiment
from minigpt.reading import Reading
from minigpt.registry import REGISTRY
from minigpt.training import preparing, resume
from tests.forging import forge
from tests.training.conftest import Watcher
from tests.training.continuing.by_hand import Stopped, continued_by_hand, equal, resumed_as_by_hand, weights

# Another value for each parameter of each optimizer; None marks a parameter whose change is refused.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"learning_rate": 3e-2, "betas": [0.5, 0.8], "eps": 1e-2, "weight_decay": 0.9},
    "sgd": {"learning_rate": 0.01, "momentum": 0.3, "nesterov": False, "weight_decay": 0.5},
    "lion": {"learning_rate": 1e-2, "betas": [0.2, 0.5], "weight_decay": 0.9},
    "muon": {
        "learning_rate": 0.1,
        "momentum": 0.3,
        "nesterov": False,
        "iterations": 2,
        "weight_decay": 0.9,
        "scaling": "match_rms_adamw",
        "rest": {"learning_rate": 3e-2, "betas": [0.5, 0.8], "eps": 1e-2, "weight_decay": 0.9},
    },
    "schedule_free": {"learning_rate": 3e-2, "betas": [0.4, 0.8], "eps": 1e-2, "weight_decay": 0.9},
    "ema": {"optimizer": {"learning_rate": 3e-2, "betas": [0.5, 0.8]}, "decay": 0.5, "start": 4},
    "lawa": {"optimizer": {"learning_rate": 3e-2, "betas": [0.5, 0.8]}, "k": None, "every": 2},
    "soap": {
        "learning_rate": 1e-2,
        "betas": [0.5, 0.8],
        "shampoo_beta": 0.3,
        "eps": 1e-2,
        "weight_decay": 0.9,
        "precondition_frequency": 1,
        "max_precondition_dim": None,
    },
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"warmup_ratio": 0.9},
    "cosine": {"warmup_ratio": 0.2, "min_lr_ratio": 0.7},
    "inverse_sqrt": {"warmup_ratio": 0.4},
    "linear": {"warmup_ratio": 0.2, "min_lr_ratio": 0.7},
    "one_cycle": {"peak_ratio": 0.8, "start_ratio": 0.5, "end_ratio": 0.5},
    "wsd": {"warmup_ratio": 0.1, "decay_ratio": 0.8, "min_lr_ratio": 0.5},
}
# Every other setting. TAKES_EFFECT has path, value, and whether it changes the weights; REFUSED has path, value and message.
TAKES_EFFECT: list[tuple[str, Any, bool]] = [
    ("training.batch_size", 3, True),
    ("training.batching", {"name": "shuffled", "offset": True}, True),
    ("training.micro_batch_size", 1, False),  # the order of sums
    ("training.grad_clip", 1e-3, True),
    ("training.precision", "bf16", True),
    ("training.max_iters", 9, True),
    ("training.eval_interval", 1, False),
    ("training.checkpoint_interval", 1, False),
    ("training.checkpoint_minutes", 1.0, False),
    ("training.non_finite", "skip", False),
    ("model.dropout", 0.5, True),
    ("model.objective.z_loss", 0.5, True),
    ("model.objective.label_smoothing", 0.2, True),
    ("data.val_fraction", 0.4, True),
    ("sampling.sampler.temperature", 0.1, False),
    ("sampling.max_new_tokens", 3, False),
    ("sampling.prompt", "3 times", False),
    ("sampling.sampler.top_k", 2, False),
    ("sampling.sampler.top_p", 0.5, False),
    ("sampling.sampler.min_p", 0.5, False),
    ("sampling.sampler", {"name": "mirostat", "tau": 2.0, "eta": 0.1}, False),
    ("sampling.stop", ["is"], False),
    ("description", "another", False),
]
REFUSED: list[tuple[str, Any, str]] = [
    ("name", "other", "name (small then, other now): it names the run folder"),
    ("seed", 5, "seed (1337 then, 5 now): the weights were drawn with it"),
    ("tokenizer", "byte", "tokenizer.name (char then, byte now): the weights are for its vocabulary"),
    ("model.d_model", 32, "model.d_model (16 then, 32 now): the weights are those of this model"),
    ("model.n_layers", 2, "model.n_layers"),
    ("model.n_heads", 1, "model.n_heads"),
    ("model.head_dim", 4, "model.head_dim"),
    ("model.block_size", 8, "model.block_size"),
    ("model.embedding.tied", False, "model.embedding.tied"),
    ("model.embedding.unit", True, "model.embedding.unit"),
    ("model.embedding.norm", "rmsnorm", "model.embedding.norm"),
    ("model.embedding.scale", 2.0, "model.embedding.scale"),
    ("model.embedding.softcap", 9.0, "model.embedding.softcap"),
    ("model.init.std", 0.1, "model.init.std"),
    ("model.attention", "gqa", "model.attention.name (mha then, gqa now)"),
    ("model.attention.window", 4, "model.attention.window"),
    ("model.position", "rope", "model.position.name"),
    ("model.norm.eps", 1e-3, "model.norm.eps"),
    ("model.ffn.expansion", 2.0, "model.ffn.expansion"),
    ("model.block", "post_norm", "model.block.name"),
    ("model.layers", [{"ffn": "glu"}], "model.layers"),
    ("training.optimizer.name", "lion", "training.optimizer.name (adamw then, lion now): the run has no state of another"),
    ("training.max_iters", 2, "training.max_iters is 2, but 3 updates are done"),
]


def test_a_run_is_continued_by_hand_as_it_is_by_resume(stopped: Stopped, tmp_path: Path) -> None:
    folder = resumed_as_by_hand(stopped(tmp_path), [], changes_weights=False)
    assert folder.later_segments() == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_of_an_optimizer_takes_effect(name: str, stopped: Stopped, tmp_path: Path) -> None:
    values = {key: value for key, value in OPTIMIZERS[name].items() if value is not None}
    folder = stopped(tmp_path, optimizer=name)
    whole = continued_by_hand(folder, [f"training.optimizer={json.dumps(values)}"])
    for left_out in values:  # each value changes the result, so none can be ignored silently
        others = {key: value for key, value in values.items() if key != left_out}
        assert not equal(whole, continued_by_hand(folder, [f"training.optimizer={json.dumps(others)}"])), left_out
    resumed_as_by_hand(folder, [f"training.optimizer={json.dumps(values)}"])
    (line,) = folder.later_segments()
    assert line.startswith("from update 3 on: training.optimizer.")
    assert all(f"training.optimizer.{key}" in line for key in values)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_parameter_of_a_schedule_takes_effect(name: str, stopped: Stopped, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    resumed_as_by_hand(folder, [f"training.schedule={json.dumps({'name': name, **SCHEDULES[name]})}"])
    assert "training.schedule" in folder.later_segments()[0]


@pytest.mark.parametrize(("path", "value", "changes_weights"), TAKES_EFFECT, ids=[path for path, *_ in TAKES_EFFECT])
def test_a_setting_takes_effect(path: str, value: Any, changes_weights: bool, stopped: Stopped, tmp_path: Path) -> None:
    override = f"{path}={json.dumps(value)}"
    folder = stopped(tmp_path)
    if path == "training.micro_batch_size":
        expected = continued_by_hand(folder, [override])
        resume(folder.path, overrides=[override], observer=Watcher())
        assert equal(weights(folder), expected)
    else:
        resumed_as_by_hand(folder, [override], changes_weights=changes_weights)
    setting: Any = folder.experiment().to_json()
    for word in path.split("."):
        setting = setting[word]
    assert setting == value, "the run's experiment has the new value"
    left_out = path.startswith(("sampling", "description", "training.checkpoint_"))
    assert bool(folder.later_segments()) != left_out
    rows = folder.rows()
    assert (rows[3].val_loss is not None) == (path == "training.eval_interval")
    assert rows[-1].step == (9 if path == "training.max_iters" else 6)


@pytest.mark.parametrize(("path", "value", "message"), REFUSED, ids=[path for path, *_ in REFUSED])
def test_a_setting_is_refused_by_name(path: str, value: Any, message: str, stopped: Stopped, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    before = {each: each.read_bytes() for each in folder.path.rglob("*") if each.is_file()}
    with pytest.raises(RunError) as refused:
        resume(folder.path, overrides=[f"{path}={json.dumps(value)}"], accept_changes=True, observer=Watcher())
    assert message in str(refused.value)
    assert before == {each: each.read_bytes() for each in folder.path.rglob("*") if each.is_file()}


@pytest.mark.parametrize("number", [1, 2, 3, 20], ids=lambda number: REFUSED[number][0])
def test_a_setting_that_was_edited_in_the_folder_is_refused_by_name_too(
    number: int, stopped: Stopped, tmp_path: Path
) -> None:
    path, value, message = REFUSED[number]
    folder = stopped(tmp_path)
    changed = {**folder.experiment(Reading((f"{path}={json.dumps(value)}",))).to_json(), "plugins": []}
    forge(folder.path / "experiment.json", changed)
    with pytest.raises(RunError) as refused:
        resume(folder.path, accept_changes=True, observer=Watcher())
    assert message in str(refused.value)


def test_a_setting_that_changes_the_form_of_the_optimizers_state_is_refused_by_name(
    stopped: Stopped, tmp_path: Path
) -> None:
    folder = stopped(tmp_path, optimizer="soap")
    with pytest.raises(RunError, match=r"training.optimizer.max_precondition_dim \(10000 then, 8 now\): the optimizer's"):
        resume(folder.path, overrides=["training.optimizer.max_precondition_dim=8"], observer=Watcher())


def test_torch_compile_is_tried_again_if_the_user_sets_it(
    stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(tmp_path)
    monkeypatch.setattr(preparing, "missing_compiler", lambda _: "there is no compiler")
    with pytest.raises(RunError, match=r"training.compile: there is no compiler"):
        resume(folder.path, overrides=["training.compile=true"], observer=Watcher())
    resume(folder.path, overrides=["training.compile=auto"], observer=Watcher())
    assert folder.later_segments() == [], "it was not compiled before, and is not now"
    assert folder.experiment().training.compile is False


def test_the_tables_cover_every_setting() -> None:
    for family, table in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        shipped = {entry.name: set(entry.params.model_fields) for entry in REGISTRY.entries(family) if entry.shipped}
        assert {name: set(values) for name, values in table.items()} == shipped
    paths = {path for path, *_ in (*TAKES_EFFECT, *REFUSED)} | {"training.compile", "data", "plugins", "training.schedule"}
    covered = {prefix for path in paths for prefix in (path, path.rsplit(".", 1)[0])}
    fields = {f"{top}.{key}" for top in ("model", "training", "sampling") for key in _fields(top)}
    fields |= set(Experiment.model_fields) - {"model", "training", "sampling"}
    assert fields <= covered, "a setting is missing from both tables"


def _fields(section: str) -> set[str]:
    annotation = Experiment.model_fields[section].annotation
    assert annotation is not None
    return set(annotation.model_fields)
