"""The measurements of `minigpt bench`: that the numbers are right and consistent, not how large they are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from minigpt import __version__
from minigpt.contracts import TokenStream
from minigpt.data import Corpus
from minigpt.errors import DivergedError, MinigptError
from minigpt.experiment import Experiment
from minigpt.lab.bench import decode as bench_decode
from minigpt.lab.bench import mixers, startup
from minigpt.lab.bench import train as bench_train
from minigpt.lab.bench.ceiling import Ceiling, measure_ceiling
from minigpt.lab.bench.decode import Window, _total_seconds, measure_decoding, next_by_recomputing
from minigpt.lab.bench.machine import prepare, this_machine
from minigpt.lab.bench.timing import Timing, measure
from minigpt.lab.bench.train import measure_training
from minigpt.lab.flops import count_flops
from minigpt.model import build_model
from minigpt.model.decoding import sample_ids
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run import RunFolder
from minigpt.system import child
from minigpt.training import Trainer, other_processes
from tests.conftest import Command

CPU = torch.device("cpu")
VOCAB, WIDTH, LAYERS, TIME, SEQUENCES = 11, 16, 2, 8, 6


def tiny(*changes: str) -> Experiment:
    """Two layers with dropout; six sequences per update, in micro-batches of four."""
    sizes = [f"model.d_model={WIDTH}", f"model.n_layers={LAYERS}", "model.n_heads=4", f"model.block_size={TIME}"]
    training = [f"training.batch_size={SEQUENCES}", "training.micro_batch_size=4", "training.precision=fp32"]
    return load_experiment({"name": "tiny"}, overrides=[*sizes, *training, *changes])


def ids(number: int) -> torch.Tensor:
    return torch.randint(VOCAB, (number,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)


@pytest.fixture(autouse=True)
def _small_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_train, "_CORPUS_TOKENS", 200)


# -------------------------------------------------------------------------------------------------------------- timing


def test_the_warm_up_does_not_count() -> None:
    durations = [100.0, 50.0, 3.0, 1.0, 8.0]
    ticks: Iterator[float] = iter(list(accumulate([0.0, *(part for duration in durations for part in (duration, 0.0))])))
    done: list[int] = []
    timing = measure(lambda: done.append(1), repeats=3, warmup=2, now=lambda: next(ticks))
    assert timing == Timing(median=3.0, low=1.0, high=8.0, n=3)
    assert len(done) == 5
    assert timing.rates(24) == (8.0, 3.0, 24.0), "per second: the longest time has the lowest rate"


# --------------------------------------------------------------------------------------------------------------- flops


def products(scores: float, mixer: int = 4 * WIDTH**2) -> float:
    """Operations of forward and backward in the tiny model: two per weight and score, three times (the backward has two)."""
    weights = LAYERS * (mixer + 8 * WIDTH**2) + VOCAB * WIDTH
    return 3 * SEQUENCES * (2 * TIME * weights + LAYERS * 2 * 2 * WIDTH * scores)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ([], products(TIME * (TIME + 1) / 2)),
        (["model.dropout=0.0"], products(TIME * (TIME + 1) / 2)),
        (["model.attention.window=3"], products(1 + 2 + 3 * (TIME - 2))),
        (["model.position=alibi"], products(TIME * (TIME + 1) / 2)),
        (['model.attention={"name": "gqa", "n_kv_heads": 2}'], products(TIME * (TIME + 1) / 2, mixer=3 * WIDTH**2)),
        (["model.attention.softcap=20"], products(TIME**2)),  # softcap is written out: all scores are computed and counted
    ],
)
def test_operations_of_weights_and_of_visible_scores_are_counted(changes: list[str], needed: float) -> None:
    experiment = tiny(*changes)
    model = build_model(experiment, VOCAB).train()
    batch = TokenStream(ids(SEQUENCES * TIME + 1)).windows(SEQUENCES, TIME)
    flops = count_flops(model, next(batch))
    assert flops.needed == needed
    whole = products(TIME**2, 3 * WIDTH**2) if experiment.model.attention.name == "gqa" else products(TIME**2)
    assert flops.square == whole
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters()), "the count used a copy"


# ------------------------------------------------------------------------------------------------------------ training


def test_the_requested_threads_are_used_and_reported() -> None:
    before = torch.get_num_threads()
    try:
        assert prepare("cpu", 2) == CPU
        assert "2 threads" in str(this_machine(CPU))
        assert prepare("cpu", None) == CPU
        assert torch.get_num_threads() == 2, "not changed"
    finally:
        torch.set_num_threads(before)


def test_the_ceiling_is_the_fastest_of_a_models_shapes() -> None:
    ceiling = measure_ceiling(8, "bf16", CPU)
    assert list(ceiling.rates) == ["2048 x 8 x 32", "2048 x 32 x 8", "4096 x 8 x 32", "4096 x 32 x 8"]
    assert ceiling.best == max(ceiling.rates.values()) > min(ceiling.rates.values()) > 0


@pytest.mark.parametrize(
    "change", ["model.ffn=mlp", 'model.ffn={"name": "moe", "balance": "bias"}', "training.optimizer=muon"]
)
def test_an_update_is_the_trainers(change: str, tmp_path: Path) -> None:
    """Bit for bit, with dropout, micro-batches, clipping, a schedule, and components that adjust themselves after each step."""
    experiment = tiny(change, "training.max_iters=3", "training.grad_clip=0.1")
    corpus = Corpus(TokenStream(ids(60)), TokenStream(ids(60)), VOCAB, None, "", None)
    measured, trained = (build_model(experiment, VOCAB).train() for _ in range(2))
    with torch.random.fork_rng():
        assert len(bench_train._updates(experiment, corpus, measured, "fp32", 3)) == 3
        Trainer(experiment, corpus, trained, precision="fp32", observer=Mock(), run=RunFolder(tmp_path)).train()
    for name, tensor in measured.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name


def test_training_is_measured_and_its_numbers_are_consistent() -> None:
    random = torch.random.get_rng_state()
    speed = measure_training(tiny(), vocab_size=VOCAB, repeats=3, device=CPU)
    assert torch.equal(random, torch.random.get_rng_state())
    assert (speed.precision, speed.tokens, speed.micro_batch_size) == ("fp32", SEQUENCES * TIME, 4)
    assert speed.flops.needed == products(TIME * (TIME + 1) / 2), "counted for a micro-batch of 4, scaled to all 6"
    assert speed.update.n == speed.gradients.n == speed.optimizer.n == 3
    assert speed.update.low >= speed.gradients.low + speed.optimizer.low
    document = json.loads(json.dumps(speed.to_json()))
    assert document["tokens_per_second"] == speed.tokens / speed.update.median
    assert document["share"] == pytest.approx(document["flops_per_second"] / document["ceiling"])
    assert document["share"] < document["share_of_gradients"]
    assert document["share"] < document["share_square"]
    assert document["ceiling"] == max(Ceiling(document[when]["rates"]).best for when in ("before", "after"))
    assert document["peak_mib"] >= document["imports_mib"] > 1


def test_training_that_diverges_is_reported() -> None:
    rate = 'training={"optimizer": {"name": "sgd", "learning_rate": 1e30}, "schedule": "constant", "grad_clip": null}'
    with pytest.raises(DivergedError, match="on random ids is not finite"):
        measure_training(tiny(rate), vocab_size=VOCAB, repeats=8, device=CPU)


# ------------------------------------------------------------------------------------------------------------ decoding


def test_computing_whole_windows_gives_the_same_tokens_as_the_state() -> None:
    model = build_model(tiny("model.block_size=24", "model.embedding.tied=false"), VOCAB).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # with its initial weights it repeats one token
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, generator=generator)
    greedy = REGISTRY.resolve("sampler", {"name": "filtered", "temperature": 0}).build()
    fast = [int(token[0]) for token in sample_ids(model, [0], greedy, 20)]
    slow = torch.zeros(1, 1, dtype=torch.long)
    for _ in fast:
        slow = torch.cat((slow, next_by_recomputing(model, slow)[:, None]), 1)
    assert slow[0, 1:].tolist() == fast
    assert len(set(fast)) > 2
    long = torch.randint(VOCAB, (2, 50), generator=generator)
    assert torch.equal(next_by_recomputing(model, long), next_by_recomputing(model, long[:, -24:]))


@pytest.mark.parametrize(("tokens", "longest"), [(5, 5), (20, TIME)])
def test_decoding_is_measured_both_ways(tokens: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[bool, int, float]] = []

    def recorded(*arguments: object, read_ahead: bool, num_samples: int):
        calls.append((read_ahead, num_samples, arguments[2].temperature))
        return sample_ids(*arguments, read_ahead=read_ahead, num_samples=num_samples)

    monkeypatch.setattr(bench_decode, "sample_ids", recorded)
    speed = measure_decoding(
        build_model(tiny(), VOCAB), [0], temperature=0.5, tokens=tokens, batch=3, repeats=2, device=CPU, imports_mib=1.0
    )
    assert calls == [(ahead, 3, 0.5) for ahead in (True, True, False, True, False)]
    assert (speed.whole.n, speed.one_by_one.n) == (2, 2)
    assert [window.length for window in speed.windows] == list(range(1, longest + 1))
    document = json.loads(json.dumps(speed.to_json()))
    assert document["tokens_per_second"] == 3 * tokens / speed.whole.median
    assert document["ratio"] == speed.recomputing / speed.whole.median
    assert document["ratio_one_by_one"] == speed.recomputing / speed.one_by_one.median


def test_seconds_are_interpolated_between_the_timed_windows() -> None:
    windows = tuple(Window(length, Timing(length / 2, 0.0, 9.0, 1)) for length in (1, 3, 7))
    assert _total_seconds(windows, 4) == pytest.approx((1 + 2 + 3 + 4) / 2)
    assert _total_seconds(windows, 9) == pytest.approx((1 + 2 + 3 + 4 + 5 + 6 + 7 + 7 + 7) / 2), "no window is longer than 7"


# ------------------------------------------------------------------------------------------------------------ start-up


def test_every_timed_command_of_startup_works(minigpt: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which is faster."""
    called: list[str] = []

    def here(words: str, code: tuple[str, ...], folder: str) -> None:
        monkeypatch.chdir(folder)
        if len(code) == 1:
            exec(code[0])
            return
        called.append(words)
        exit_code, out, err = minigpt(*code[1:])
        assert (exit_code, err) == (0, "")
        assert words != "minigpt show FILE" or "10,770,816" in out, "the documented model"

    monkeypatch.setattr(startup, "_run", here)
    before = Path.cwd()
    timings = startup.measure_startup(1)
    monkeypatch.chdir(before)
    assert list(timings) == list(startup.COMMANDS)
    assert called == [words for words in startup.COMMANDS if words.startswith("minigpt") for _ in range(2)]


def test_a_command_that_fails_is_reported_with_its_last_line() -> None:
    with pytest.raises(MinigptError, match="^minigpt dance ended with code 1: ValueError: no$"):
        startup._run("minigpt dance", ("raise ValueError('no')",), ".")


def test_parents_of_measured_processes_do_not_import_torch() -> None:
    code = "import minigpt.lab.bench.mixers, minigpt.lab.bench.startup, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# -------------------------------------------------------------------------------------------------------------- mixers


@pytest.fixture
def _no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "call", lambda function, request: function(request))


@pytest.mark.usefixtures("_no_children")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_mixer_is_measured(precision: str) -> None:
    row = mixers.measure_mixer("mha", 8, mixers.Settings(batch=2, precision=precision, repeats=2, threads=1))
    assert row.error is None
    assert row.parameters == 591_360
    assert row.seconds is not None
    assert row.seconds.n == 2
    assert row.tokens_per_second == 2 * 8 / row.seconds.median
    assert json.loads(json.dumps(asdict(row)))["seconds"]["n"] == 2


@pytest.mark.usefixtures("_no_children")
def test_a_mixer_measured_beside_other_processes_has_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_processes.OtherProcesses, "share", lambda self: 0.5)
    row = mixers.measure_mixer("mha", 8, mixers.Settings(batch=1, repeats=1, threads=1))
    assert row.warning == "other processes took 50% of the processors meanwhile"


@pytest.mark.usefixtures("_no_children")
def test_all_mixers_are_measured_unless_some_are_named() -> None:
    assert mixers.choose(None) == mixers.registered()
    assert mixers.choose(["gqa", "mha"]) == ["gqa", "mha"]
    with pytest.raises(MinigptError, match='unknown mixer "gqqa"; known: cope, .*; did you mean "gqa"?'):
        mixers.choose(["mha", "gqqa"])


def test_a_mixer_is_measured_in_a_separate_process() -> None:
    row = mixers.measure_mixer("mha", 8, mixers.Settings(batch=1, repeats=1, threads=1))
    assert (row.error, row.parameters) == (None, 591_360)
    assert row.machine is not None
    assert row.machine.endswith(f", minigpt {__version__}")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo 'first' >&2; echo 'RuntimeError: last' >&2; exit 1", "RuntimeError: last"),
        ("exit 9", "ended with code 9 without a message (out of memory?)"),
    ],
)
def test_the_last_line_of_a_process_that_fails_is_kept(
    script: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert mixers.measure_mixer("mha", 8, mixers.Settings()) == mixers.MixerSpeed("mha", 8, error=error)
