"""Training from beginning to end: records, checkpoints, evaluation, samples, resuming and estimates."""

from __future__ import annotations

import contextlib
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from minigpt.components.ffn.mlp import MLP
from minigpt.contracts import NamedParameter, TokenStream
from minigpt.data import load_corpus
from minigpt.errors import DivergedError, ExperimentError, MinigptError, PluginError, RunError
from minigpt.model import build_model
from minigpt.model.decoding import sample_text
from minigpt.numbers import duration
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run import RunFolder, checkpoint, open_run
from minigpt.run.evaluation import Scorer, evaluate
from minigpt.training import resume, train
from minigpt.training.averaging import answering, refuse_constrained_weights
from minigpt.training.estimate import Speed, measure_speed
from minigpt.training.machine import choose_device, choose_precision
from minigpt.training.observer import Plan
from minigpt.training.seeds import stream_seed
from tests.soak.children import differences
from tests.training.conftest import Watcher, Write, run


def test_a_run_writes_all_its_files(write_experiment: Write, tmp_path: Path) -> None:
    observer = Watcher()
    outcome = run(load_experiment(write_experiment()), tmp_path / "runs", observer)
    assert outcome.status == "finished"
    folder = outcome.run
    assert folder.path == tmp_path / "runs" / "small" / "seed-1337"
    rows = folder.rows()
    assert [row.step for row in rows] == list(range(1, 41))
    fields = {"step", "tokens", "seconds", "wall", "train_loss", "lr", "grad_norm", "tokens_per_second"}
    evaluated = {"val_loss", "val_perplexity", "val_bits_per_byte"}
    for row in rows:
        assert set(row.to_json()) - {"other_cpu"} == (fields | evaluated if row.step in (15, 30, 40) else fields)
    assert rows[-1].other_cpu is not None or not Path("/proc/stat").exists()
    assert rows[-1].tokens == 40 * 8 * 32
    assert rows[-1].lr == pytest.approx(0.005)
    assert rows[-1].val_loss < rows[0].train_loss - 1
    assert rows[-1].val_perplexity == pytest.approx(math.exp(rows[-1].val_loss))
    assert rows[-1].seconds <= rows[-1].wall
    assert outcome.val_loss == rows[-1].val_loss
    provenance = folder.provenance()
    assert provenance.precision == "fp32"
    assert {row.component for row in provenance.components} >= {
        "attention/mha",
        "schedule/interrupting",
        "optimizer/adamw",
    }
    assert provenance.evaluation.window == provenance.evaluation.stride == 32
    assert "--- step 40, validation loss" in folder.samples.read_text()
    assert (folder.path / "plugins" / "interrupting.py").is_file()
    assert json.loads((folder.path / "experiment.json").read_text())["plugins"] == ["plugins/interrupting.py"]
    assert not list(tmp_path.rglob("*.pkl")) + list(tmp_path.rglob("*.pt"))
    printed = observer.out.getvalue()
    assert "yardsticks, nats per token: uniform" in printed
    assert "step 40/40" in printed


def test_a_run_folder_is_enough_to_run_again(write_experiment: Write, tmp_path: Path) -> None:
    first = run(load_experiment(write_experiment()), tmp_path / "one")
    second = run(load_experiment(first.run.path / "experiment.json"), tmp_path / "two")
    assert [row.train_loss for row in first.run.rows()] == [row.train_loss for row in second.run.rows()]


def test_seeds_change_the_run(write_experiment: Write, tmp_path: Path) -> None:
    file = write_experiment(max_iters=3)
    losses = [
        [row.train_loss for row in run(load_experiment(file, overrides=[f"seed={seed}"]), tmp_path / "r").run.rows()]
        for seed in (1, 2)
    ]
    assert losses[0] != losses[1]


PLACES = [("updated", 1), ("updated", 14), ("evaluating", 1), ("evaluating", 4), ("evaluated", 1), ("evaluated", 3)]


@pytest.mark.parametrize(
    ("optimizer", "interrupt"),
    # An averaging optimizer swaps in other weights during an evaluation.
    [*(("adamw", place) for place in PLACES), ("schedule_free", ("evaluating", 4)), ("schedule_free", ("evaluated", 1))],
)
def test_stopping_anywhere_and_resuming_is_the_same_run(
    optimizer: str,
    interrupt: tuple[str, int],
    write_experiment: Write,
    undisturbed: Callable[..., RunFolder],
    tmp_path: Path,
) -> None:
    named = {"name": optimizer, "learning_rate": 1e-2}
    experiment = load_experiment(write_experiment(optimizer=named))
    part = run(experiment, tmp_path / "part", Watcher(interrupt))
    if interrupt == ("evaluated", 3):
        assert part.status == "finished", "the last update is done"
        return
    assert part.status == "stopped"
    assert part.stop_signal == signal.SIGTERM
    rest = resume(part.run.path, observer=Watcher())
    assert rest.status == "finished"
    assert not differences(undisturbed(optimizer=named), part.run)


def test_the_best_checkpoint_has_the_lowest_validation_loss(write_experiment: Write, tmp_path: Path) -> None:
    file = write_experiment(eval_interval=5, checkpoint_interval=None, optimizer={"learning_rate": 0.3}, grad_clip=None)
    outcome = run(load_experiment(file), tmp_path)
    losses = {row.step: row.val_loss for row in outcome.run.rows() if row.val_loss is not None}
    best = min(losses, key=lambda step: losses[step])
    opened = open_run(outcome.run.path)
    assert opened.checkpoint.progress.step == best == outcome.progress.best_step
    assert open_run(outcome.run.path, which="last").checkpoint.progress.step == 40
    corpus = load_corpus(opened.experiment)
    assert evaluate(Scorer(opened.model, corpus, opened.experiment, "fp32")).val_loss == losses[best]


def test_a_diverging_run_stops_with_sound_weights(write_experiment: Write, tmp_path: Path) -> None:
    file = write_experiment(optimizer={"learning_rate": 1e30}, grad_clip=None)
    with pytest.raises(DivergedError, match=r"of update \d+ is not finite .*: training diverged; .*learning_rate"):
        run(load_experiment(file), tmp_path)
    rows = RunFolder(tmp_path / "small" / "seed-1337").rows()
    assert all(math.isfinite(row.train_loss) for row in rows)


def test_divergence_at_an_evaluation_is_reported_before_a_checkpoint_is_written(
    write_experiment: Write, tmp_path: Path
) -> None:
    file = write_experiment(optimizer={"learning_rate": 1e38}, eval_interval=1, grad_clip=None)
    with pytest.raises(DivergedError, match=r"training diverged; there is no checkpoint yet\. Try a lower"):
        run(load_experiment(file), tmp_path)


def test_an_edited_experiment_is_not_resumed(write_experiment: Write, tmp_path: Path) -> None:
    part = run(load_experiment(write_experiment()), tmp_path, Watcher(("updated", 5)))
    file = part.run.path / "experiment.json"
    file.write_text(file.read_text().replace('"batch_size": 8', '"batch_size": 4'))
    with pytest.raises(
        RunError, match=r"experiment.json is damaged or was edited: it differs from the record in manifest.json"
    ):
        resume(part.run.path, observer=Watcher())


@pytest.mark.parametrize("is_loaded_again", [False, True])
def test_a_plugin_edited_after_loading_is_refused(write_experiment: Write, tmp_path: Path, is_loaded_again: bool) -> None:
    file = write_experiment()
    experiment = load_experiment(file)
    plugin = tmp_path / "interrupting.py"
    plugin.write_text(plugin.read_text() + "# edited\n")
    if is_loaded_again:
        load_experiment(file)
    with pytest.raises(PluginError, match=r"interrupting.py changed since it was loaded: load the experiment again"):
        run(experiment, tmp_path)


def test_best_survives_a_crash_between_the_two_pointers(
    write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(write_experiment())
    whole = run(experiment, tmp_path / "whole")
    real = checkpoint.write_text

    def crash(path: Path, text: str) -> None:
        if path.name == "last" and "step-00000015" in text:
            raise KeyboardInterrupt
        real(path, text)

    monkeypatch.setattr(checkpoint, "write_text", crash)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, tmp_path / "part")
    monkeypatch.undo()
    rest = resume(tmp_path / "part" / "small" / "seed-1337", observer=Watcher())
    a, b = open_run(whole.run.path), open_run(rest.run.path)
    assert a.checkpoint.progress.best_step == b.checkpoint.progress.best_step
    assert all(torch.equal(tensor, b.checkpoint.weights[name]) for name, tensor in a.checkpoint.weights.items())


def test_samples_end_before_a_stop_string(write_experiment: Write, tmp_path: Path) -> None:
    file = write_experiment(max_iters=2)
    whole = run(load_experiment(file), tmp_path / "whole").sample
    assert whole is not None
    stop = whole[5]
    ended = run(load_experiment(file, overrides=[f"sampling.stop={json.dumps([stop])}"]), tmp_path / "ended")
    assert ended.sample == whole[: whole.index(stop)]
    assert f"\n{ended.sample}\n" in ended.run.samples.read_text()


def test_the_averaged_weights_are_measured_sampled_and_saved(write_experiment: Write, tmp_path: Path) -> None:
    outcome = run(load_experiment(write_experiment(optimizer={"name": "schedule_free", "learning_rate": 1e-2})), tmp_path)
    opened = open_run(outcome.run.path, which="last")
    states = opened.checkpoint.optimizer["state"]
    held = [index for group in opened.checkpoint.optimizer["param_groups"] for index in group["params"]]
    roles = [parameter for parameter in opened.model.named_roles() if parameter.role != "vector"]
    roles += [parameter for parameter in opened.model.named_roles() if parameter.role == "vector"]
    for index, parameter in zip(held, roles, strict=True):
        state = states[index]
        assert torch.equal(parameter.tensor, state["x"]), parameter.name
        assert not torch.equal(torch.lerp(state["z"], state["x"], 0.9), state["x"]), (
            "the averaged weights equal the training weights"
        )
    measured = evaluate(Scorer(opened.model, load_corpus(opened.experiment), opened.experiment, "fp32"))
    assert outcome.run.rows()[-1].val_loss == measured.val_loss
    assert opened.tokenizer is not None
    sampling, seed = opened.experiment.sampling, stream_seed(opened.experiment.seed, 40, 1)
    assert outcome.sample is not None
    drawn = sample_text(opened.model, opened.tokenizer, sampling.prompt, sampling, seed=seed)[0]
    assert outcome.sample == sampling.prompt.lstrip("\n") + drawn


def test_averaging_is_refused_before_anything_is_written_where_the_model_constrains_its_weights(
    write_experiment: Write, tmp_path: Path
) -> None:
    file = write_experiment(optimizer={"name": "schedule_free"})
    experiment = load_experiment(file, overrides=["model.embedding.unit=true"])
    expected = (
        r"^training.optimizer: schedule_free evaluates with an average of weights, and an average violates the "
        r"constraint that this model puts on embedding.weight after every update; choose an optimizer that .* adamw$"
    )
    with pytest.raises(ExperimentError, match=expected):
        run(experiment, tmp_path / "runs")
    assert not (tmp_path / "runs" / "small" / "seed-1337").exists()


@pytest.mark.parametrize("kind", ["kept at 1", "kept within 0.01 by .data", "kept below 1,000", "counts"])
def test_every_kind_of_constraint_is_found_and_a_counter_is_no_constraint(
    kind: str, write_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_step(self: MLP) -> None:
        weight = self.out.weight
        if kind == "kept at 1":
            weight.copy_(torch.nn.functional.normalize(weight, dim=0))
        elif kind == "kept within 0.01 by .data":
            weight.data.clamp_(-0.01, 0.01)  # initialisation did this already
        elif kind == "kept below 1,000":  # the weights are still smaller
            weight.clamp_(max=1e3)
        else:
            self.register_buffer("updates", torch.zeros(()) + 1)

    monkeypatch.setattr(MLP, "after_step", after_step)
    for optimizer in ("schedule_free", "adamw"):
        experiment = load_experiment(write_experiment(optimizer={"name": optimizer}))
        model = build_model(experiment, 50)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if optimizer == "adamw" or kind == "counts":
            refuse_constrained_weights(experiment, model)
        else:
            with pytest.raises(ExperimentError, match=r"puts on blocks\.0\.ffn\.out\.weight after every update"):
                refuse_constrained_weights(experiment, model)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_interrupted_evaluation_restores_the_training_weights() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    recipe = REGISTRY.resolve("optimizer", "schedule_free").build()
    optimizer = recipe.build([NamedParameter("weight", weight, "vector")])
    for _ in range(2):
        weight.grad = torch.ones(3)
        optimizer.step()
    trained = weight.detach().clone()
    with contextlib.suppress(KeyboardInterrupt), answering(optimizer):
        assert not torch.equal(weight, trained)
        raise KeyboardInterrupt
    assert torch.equal(weight, trained)


def test_evaluation_is_the_mean_over_the_whole_split(write_experiment: Write) -> None:
    experiment = load_experiment(write_experiment())
    corpus = load_corpus(experiment)
    model = build_model(experiment, corpus.vocab_size).double()
    assert isinstance(corpus.val, TokenStream)
    ids = corpus.val.ids.long()
    total, places = 0.0, 0
    with torch.no_grad():
        model.eval()
        for start in range(0, len(ids) - 1, 32):
            window = ids[start : start + 33]
            each = -model(window[None, :-1]).log_softmax(-1)[0].gather(-1, window[1:, None])
            total, places = total + each.sum().item(), places + len(each)
        model.train()
    got = evaluate(Scorer(model, corpus, experiment, "fp32"))
    assert places == len(ids) - 1
    assert got.val_loss == pytest.approx(total / places, rel=1e-12)
    assert corpus.val_bytes is not None
    assert got.val_bits_per_byte == pytest.approx(total / math.log(2) / corpus.val_bytes, rel=1e-12)
    assert model.training


def test_clipping_bounds_the_gradient_and_is_off_with_null(write_experiment: Write, tmp_path: Path) -> None:
    # With a huge eps, AdamW's update is proportional to the gradient.
    sgd_like = {"optimizer": {"learning_rate": 1e-2, "eps": 1e6}, "max_iters": 1}
    norms = {}
    for clip in (1e-3, None):
        experiment = load_experiment(write_experiment(name=f"clip{clip is None}".lower(), grad_clip=clip, **sgd_like))
        outcome = run(experiment, tmp_path / "r")
        found = checkpoint.load(outcome.run.checkpoints)
        assert found is not None
        norms[clip] = (
            torch.stack([state["exp_avg"].norm() for state in found.optimizer["state"].values()]).norm().item() / 0.1
        )
        assert outcome.run.rows()[0].grad_norm > 0.1, "the norm before clipping is recorded"
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[None] > 0.1


def test_minutes_fit_the_schedule_to_the_time(write_experiment: Write, tmp_path: Path) -> None:
    observer = Watcher()
    outcome = train(load_experiment(write_experiment()), out=tmp_path, minutes=0.02, device="cpu", observer=observer)
    resolved = json.loads((outcome.run.path / "experiment.json").read_text())
    assert resolved["training"]["max_iters"] == outcome.progress.step
    assert f"0.02 min here are {outcome.progress.step:,} update" in observer.out.getvalue()
    assert outcome.progress.step >= 1
    assert outcome.progress.wall < 6


def test_the_time_left_counts_updates_and_evaluations() -> None:
    experiment = load_experiment({"training": {"max_iters": 100, "eval_interval": 30}})
    speed = Speed(update=2.0, evaluation=10.0, spread=(1.9, 2.2))
    assert speed.seconds(experiment, update=2.2) == 100 * 2.2 + 4 * 10
    assert speed.margin == pytest.approx(0.1)
    assert speed.seconds(experiment) == 100 * 2 + 4 * 10
    assert speed.seconds(experiment, first_step=60) == 40 * 2 + 2 * 10
    assert speed.updates_within(experiment, 30 * 2 + 10 + 10.1) == 30
    assert speed.updates_within(experiment, 0) == 1


def test_measuring_does_not_change_the_model_or_the_random_state(write_experiment: Write) -> None:
    experiment = load_experiment(write_experiment())
    corpus = load_corpus(experiment)
    model = build_model(experiment, corpus.vocab_size)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    speed = measure_speed(experiment, corpus, model, "fp32")
    assert speed.update > 0
    assert speed.evaluation > 0
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_existing_run_is_not_overwritten(write_experiment: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(max_iters=1))
    run(experiment, tmp_path)
    with pytest.raises(RunError, match=r"holds a run already; continue it: minigpt resume .*--fresh"):
        run(experiment, tmp_path)


def test_devices_and_precisions_are_chosen_or_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(MinigptError, match='device "tpu" is not available here; allowed: auto, .*cpu'):
        choose_device("tpu")
    cpu = torch.device("cpu")
    assert [choose_precision(wish, cpu) for wish in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert choose_precision("auto", cpu) in ("fp32", "bf16")


def test_seeds_of_steps_and_purposes_differ() -> None:
    seeds = {stream_seed(seed, step, stream) for seed in range(3) for step in range(100) for stream in (0, 1)}
    assert len(seeds) == 600


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (27_600, "7 h 40 min")]
)
def test_durations_are_shown_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_plan_is_shown_in_a_few_lines() -> None:
    plan = Plan("x", "runs/x", 1_234_567, 10, 0, 1000, 65.0, "cpu", "bf16", 1, {"bigram": 2.5}, ("p.py",))
    assert plan.lines() == [
        "x: 1,234,567 parameters, 1,000 tokens in 10 steps, about 1 min 5 s on this machine (cpu, bf16, 1 thread)",
        "plugin: p.py",
        "yardsticks, nats per token: bigram 2.500",
    ]
