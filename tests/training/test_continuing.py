"""Continuing a run with a changed setting: the setting takes effect bit for bit, or it is refused by name."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt.contracts import AveragingOptimizer
from minigpt.data import load_corpus, train_batch
from minigpt.errors import MinigptError, RunError
from minigpt.experiment import Experiment
from minigpt.model import build_model
from minigpt.reading import Reading, load_experiment
from minigpt.registry import REGISTRY
from minigpt.run import RunFolder, checkpoint, open_run
from minigpt.run.recorded import MAX_THREADS
from minigpt.training import preparing, resume, session, train
from minigpt.training.loop import compute_gradients, seed_generators, stream_seed, take_step
from minigpt.training.machine import build_optimizer
from tests.forging import forge
from tests.training.conftest import TEXT, Watcher, run

_CPU = torch.device("cpu")

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
    ("training.micro_batch_size", 1, False),  # the order of sums
    ("training.grad_clip", 1e-3, True),
    ("training.precision", "bf16", True),
    ("training.max_iters", 9, True),
    ("training.eval_interval", 1, False),
    ("training.checkpoint_interval", 1, False),
    ("training.checkpoint_minutes", 1.0, False),
    ("training.non_finite", "skip", False),
    ("model.dropout", 0.5, True),
    ("model.z_loss", 0.5, True),
    ("data.val_fraction", 0.4, True),
    ("sampling.temperature", 0.1, False),
    ("sampling.max_new_tokens", 3, False),
    ("sampling.prompt", "3 times", False),
    ("sampling.top_k", 2, False),
    ("sampling.top_p", 0.5, False),
    ("sampling.min_p", 0.5, False),
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
    ("model.tied_head", False, "model.tied_head"),
    ("model.unit_embeddings", True, "model.unit_embeddings"),
    ("model.embedding_norm", "rmsnorm", "model.embedding_norm"),
    ("model.embedding_scale", 2.0, "model.embedding_scale"),
    ("model.logit_softcap", 9.0, "model.logit_softcap"),
    ("model.attention", "gqa", "model.attention.name (mha then, gqa now)"),
    ("model.attention.window", 4, "model.attention.window"),
    ("model.position", "rope", "model.position.name"),
    ("model.norm.eps", 1e-3, "model.norm.eps"),
    ("model.ffn.expansion", 2.0, "model.ffn.expansion"),
    ("model.block", "post_norm", "model.block.name"),
    ("model.layers", [{"ffn": "glu"}], "model.layers"),
    ("training.optimizer.name", "lion", "training.optimizer.name (adamw then, lion now): what another optimizer"),
    ("training.max_iters", 2, "training.max_iters is 2, and 3 updates are done"),
]

Stopped = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """A copy of a run that was stopped after 3 of 6 updates."""
    runs: dict[str, RunFolder] = {}

    def of(folder: Path, optimizer: str = "adamw", schedule: str = "constant") -> RunFolder:
        key = f"{optimizer}-{schedule}"
        if key not in runs:
            place = tmp_path_factory.mktemp(key)
            (place / "corpus.txt").write_text(TEXT[:3000])
            experiment = load_experiment(document(place, optimizer, schedule))
            outcome = run(experiment, place / "runs", Watcher(("updated", 3)))
            assert (outcome.status, outcome.progress.step) == ("stopped", 3)
            runs[key] = outcome.run
        shutil.copytree(runs[key].path, folder / "small" / "seed-1337")
        return RunFolder(folder / "small" / "seed-1337")

    return of


def document(place: Path, optimizer: str, schedule: str) -> dict[str, Any]:
    settings = {"name": optimizer, "learning_rate": 1e-3}
    return {
        "name": "small",
        "data": {"name": "text", "paths": [str(place / "corpus.txt")]},
        "model": {"d_model": 16, "n_heads": 2, "n_layers": 1, "block_size": 16, "dropout": 0.1},
        "training": {
            "optimizer": settings,
            "schedule": schedule,
            "batch_size": 4,
            "max_iters": 6,
            "eval_interval": 5,
            "precision": "fp32",
            "compile": False,
        },
        "sampling": {"max_new_tokens": 2},
    }


def continued_by_hand(folder: RunFolder, overrides: list[str]) -> dict[str, Tensor]:
    """The reference weights after the last update.

    Everything is built from the changed settings; only tensors and counts come from the checkpoint.
    """
    experiment = folder.experiment(Reading(tuple(overrides)))
    corpus, start = load_corpus(experiment, folder.learned()), checkpoint.load(folder.checkpoints)
    assert start is not None
    precision = experiment.training.precision
    model = build_model(experiment, corpus.vocab_size)
    model.load_state_dict(start.weights)
    optimizer = build_optimizer(experiment, model, precision)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, state in start.optimizer["state"].items():
        optimizer.state[parameters[index]] = copy.deepcopy(state)
    for group, saved in zip(optimizer.param_groups, start.optimizer["param_groups"], strict=True):
        group.update({key: saved[key] for key in ("step", "sum") if key in saved})
    if isinstance(optimizer, AveragingOptimizer):
        optimizer.train()
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = experiment.training.schedule.build(experiment.training.max_iters)
    model.train()
    for step in range(start.progress.step, experiment.training.max_iters):
        seed_generators(stream_seed(experiment.seed, step, 0), _CPU)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule.factor(step)
        compute_gradients(model, train_batch(corpus, experiment, step), experiment, precision)
        take_step(model, optimizer)
    if isinstance(optimizer, AveragingOptimizer):
        optimizer.eval()
    return model.state_dict()


def weights(folder: RunFolder) -> dict[str, Tensor]:
    last = checkpoint.load(folder.checkpoints)
    assert last is not None
    return last.weights


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def resumed_as_by_hand(folder: RunFolder, overrides: list[str], *, changes_weights: bool = True) -> RunFolder:
    """Resume with these settings, and compare the weights with the reference."""
    before, expected = continued_by_hand(folder, []), continued_by_hand(folder, overrides)
    assert equal(before, expected) != changes_weights
    assert resume(folder.path, overrides=overrides, observer=Watcher()).status == "finished"
    assert equal(weights(folder), expected)
    return folder


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


def test_an_accepted_change_of_code_takes_effect_in_the_optimizer_too(
    stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(tmp_path)
    from minigpt.components.optimizer import adamw
    from minigpt.components.optimizer.groups import decay_groups

    def uniform_decay(parameters: Any, weight_decay: float) -> Any:
        return [{**group, "weight_decay": 0.7} for group in decay_groups(parameters, weight_decay)]

    monkeypatch.setattr(adamw, "decay_groups", uniform_decay)
    recorded = json.loads((folder.path / "provenance.json").read_text())
    recorded["core"] = "other"
    forge(folder.path / "provenance.json", recorded)
    expected = continued_by_hand(folder, [])
    with pytest.raises(RunError, match="these changed: minigpt's model or training code. Undo the changes"):
        resume(folder.path, observer=Watcher())
    resume(folder.path, accept_changes=True, observer=Watcher())
    assert equal(weights(folder), expected)
    assert folder.later_segments() == ["from update 3 on: minigpt's model or training code"]


def test_a_finished_run_is_trained_further_and_its_history_says_so(stopped: Stopped, tmp_path: Path) -> None:
    folder, observer = stopped(tmp_path, schedule="cosine"), Watcher()
    resume(folder.path, observer=observer)
    assert folder.is_finished()
    with pytest.raises(RunError, match=r"is finished \(step 6\); .*further: minigpt resume .* --set training.max_iters=12"):
        resume(folder.path, observer=observer)
    expected = continued_by_hand(folder, ["training.max_iters=9"])
    resume(folder.path, overrides=["training.max_iters=9"], observer=observer)
    assert equal(weights(folder), expected)
    assert folder.is_finished()
    assert [row.step for row in folder.rows()] == list(range(1, 10))
    resume(folder.path, overrides=["training.max_iters=10", "training.grad_clip=0.5"], threads=1, observer=observer)
    assert folder.later_segments() == [
        "from update 6 on: training.max_iters (6 then, 9 now)",
        "from update 9 on: training.max_iters (9 then, 10 now); training.grad_clip (1.0 then, 0.5 now)",
    ]
    recorded = folder.provenance()
    first, second, _ = recorded.segments
    for origin, max_iters in ((first.provenance, 6), (second.provenance, 9), (recorded, 10)):
        assert origin is not None
        assert origin.experiment["training"]["max_iters"] == max_iters  # type: ignore[call-overload, index]
    printed = observer.out.getvalue()
    assert "changed: training.max_iters (6 then, 9 now)" in printed
    assert "from now on the schedule covers 9 updates" in printed
    assert "from update 6 on this is another segment of the run, and compare will not use the run" in printed


def test_a_project_that_was_moved_is_the_same_by_its_fingerprints(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new" / "place"
    old.mkdir()
    (old / "corpus.txt").write_text(TEXT[:3000])
    begun = run(load_experiment(document(old, "adamw", "constant")), old / "runs", Watcher(("updated", 3)))
    whole = run(load_experiment(document(old, "adamw", "constant")), tmp_path / "whole")
    new.parent.mkdir()
    old.rename(new)
    folder = RunFolder(new / begun.run.path.relative_to(old))
    resume(folder.path, observer=Watcher())
    assert folder.later_segments() == []
    assert equal(weights(folder), weights(whole.run))
    assert folder.experiment().to_json()["data"]["paths"] == [str(new / "corpus.txt")]


def test_the_same_text_in_another_file_is_no_change_and_another_text_is(stopped: Stopped, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    (tmp_path / "same.txt").write_text(TEXT[:3000])
    (tmp_path / "other.txt").write_text(TEXT[:3000].replace("4", "5"))
    file = folder.path / "experiment.json"
    edited = json.loads(file.read_text())
    edited["data"]["paths"] = [str(tmp_path / "other.txt")]
    forge(file, edited)
    with pytest.raises(RunError, match=r"cannot be continued exactly, because these changed: the data \("):
        resume(folder.path, observer=Watcher())
    resume(folder.path, overrides=[f'data.paths=["{tmp_path / "same.txt"}"]'], observer=Watcher())
    assert folder.later_segments() == []


def test_a_run_of_another_device_or_another_number_of_threads_can_be_continued_here(
    stopped: Stopped, tmp_path: Path
) -> None:
    folder = stopped(tmp_path)
    file = folder.path / "provenance.json"
    recorded = json.loads(file.read_text())
    missing = "cuda" if not torch.cuda.is_available() else "mps"
    recorded["machine"] |= {"device": missing, "threads": 1}
    forge(file, recorded)
    with pytest.raises(
        RunError, match=f"was trained on {missing}, which is not available here. .*minigpt resume .* --device auto"
    ):
        resume(folder.path, observer=Watcher())
    before = torch.get_num_threads()
    try:
        resume(folder.path, device="cpu", threads=2, observer=Watcher())
    finally:
        torch.set_num_threads(before)
    (line,) = folder.later_segments()
    assert line == f"from update 3 on: the device ({missing} then, cpu now); the number of threads (1 then, 2 now)"


@pytest.mark.parametrize("number", [0, -1, MAX_THREADS + 1, 65536])
def test_a_number_of_threads_that_ends_the_process_is_refused(number: int, stopped: Stopped, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    with pytest.raises(MinigptError, match=rf"threads: found {number}; allowed: 1 to {MAX_THREADS}"):
        train(folder.experiment(), out=tmp_path / "another", threads=number)
    file = folder.path / "provenance.json"
    recorded = json.loads(file.read_text())
    recorded["machine"]["threads"] = number
    forge(file, recorded)
    with pytest.raises(RunError, match="provenance.json is damaged: machine.threads"):
        resume(folder.path, observer=Watcher())


def test_a_change_takes_effect_even_if_its_first_session_was_killed_before_a_save(
    stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, changes = stopped(tmp_path), ["training.optimizer.weight_decay=0.7"]
    expected = continued_by_hand(folder, changes)
    with monkeypatch.context() as killed:
        killed.setattr(session, "Trainer", lambda *of, **named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            resume(folder.path, overrides=changes, observer=Watcher())
    resume(folder.path, observer=Watcher())
    assert equal(weights(folder), expected)


def test_a_refused_command_changes_nothing(stopped: Stopped, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    folder.metrics.write_bytes(folder.metrics.read_bytes().replace(b"1", b"2"))
    with pytest.raises(RunError, match="metrics.jsonl is damaged or was edited"):
        resume(folder.path, overrides=["training.grad_clip=0.5"], observer=Watcher())
    assert folder.later_segments() == []


def test_an_accepted_edit_that_was_not_trained_with_is_refused_for_generation(stopped: Stopped, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    file = folder.path / "experiment.json"
    document = json.loads(file.read_text())
    document["model"]["logit_softcap"] = 5.0
    file.write_text(json.dumps(document))
    with pytest.raises(RunError, match=r"model.logit_softcap"):
        resume(folder.path, accept_changes=True, observer=Watcher())
    with pytest.raises(RunError, match=r"was edited: the run was trained with other values of model.logit_softcap"):
        open_run(folder.path)
