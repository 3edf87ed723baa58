"""`minigpt bench` as a user calls it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from minigpt import __version__
from minigpt.lab.bench import startup
from minigpt.lab.bench import train as bench_train
from minigpt.system import child
from minigpt.training import other_processes
from tests.conftest import Command

SMALL = [
    *("--set", "model.d_model=16", "--set", "model.n_layers=1", "--set", "model.n_heads=2", "--set", "model.block_size=8"),
    *("--set", "training.batch_size=2", "--threads", "1", "--repeats", "2"),
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_this_process(function: Any, request: Any) -> Any:
        if getattr(request, "mixer", "") == "gla":
            return child.Exit(1, last_line="no [such] luck")
        return function(request)

    monkeypatch.setattr(child, "call", in_this_process)


@pytest.fixture(autouse=True)
def proc_stat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replaces /proc/stat. By default the file does not exist, so that other tests on this machine have no effect."""
    monkeypatch.setattr(other_processes, "_STAT", tmp_path / "stat")
    return tmp_path / "stat"


def test_other_processes_that_use_the_machine_meanwhile_are_reported(
    minigpt: Command, proc_stat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc_stat.write_text("cpu 100 0 0 0 0 0 0 0 0 0\n")
    measured = bench_train.measure_training

    def busy(*args: Any, **kwargs: Any) -> Any:
        proc_stat.write_text("cpu 1000100 0 0 0 0 0 0 0 0 0\n")
        return measured(*args, **kwargs)

    monkeypatch.setattr(bench_train, "measure_training", busy)
    code, _, err = minigpt("bench", "train", *SMALL)
    assert code == 0
    assert re.fullmatch(r"other processes took \d+% of the processors meanwhile\n", err)


def written(file: str) -> dict[str, Any]:
    return dict(json.loads(Path(file).read_text("utf-8")))


def test_training_speed_is_printed_and_written(minigpt: Command) -> None:
    code, out, err = minigpt("bench", "train", *SMALL, "--precision", "fp32", "--json", "train.json")
    assert (code, err) == (0, "")
    assert "One update of documented: 4,480 parameters, 16 tokens" in out
    for row in (
        "update",
        "batch, forward, backward, clipping",
        "optimizer",
        "tokens/s",
        "share of the fastest matrix product",
    ):
        assert row in out
    assert re.search(r"tokens/s +[\d,]+ +[\d,]+, [\d,]+", out), "with its spread"
    assert out.splitlines()[-1].startswith(
        "fp32, micro-batches of 2 sequences, 2 updates after a warm-up of two, random ids; "
    )
    assert out.splitlines()[-1].endswith(f", minigpt {__version__}"), "not cut without a terminal"
    document = written("train.json")
    assert (document["bench"], document["update"]["n"], document["machine"]["threads"]) == ("train", 2, 1)
    assert document["experiment"]["model"]["d_model"] == 16
    assert document["experiment"]["training"]["precision"] == "fp32"


def test_decoding_speed_is_printed_and_written_for_an_experiment_file(minigpt: Command) -> None:
    Path("mine.json").write_text('{"model": {"attention": "gqa"}}')
    options = ("--tokens", "4", "--batch", "2", "--vocab-size", "7", "--json", "decode.json")
    code, out, err = minigpt("bench", "decode", "mine.json", *SMALL, *options)
    assert (code, err) == (0, "")
    assert "Decoding with mine: 3,552 parameters, 4 tokens, batch 2" in out
    assert "computing a window of 4" in out
    document = written("decode.json")
    assert (document["bench"], document["vocab_size"], document["one_by_one"]["n"]) == ("decode", 7, 2)
    assert document["experiment"]["model"]["attention"]["name"] == "gqa"


def test_start_up_times_are_printed_and_written(minigpt: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "COMMANDS", {"minigpt --help": startup.COMMANDS["minigpt --help"]})
    code, out, err = minigpt("bench", "startup", "--repeats", "2", "--json", "startup.json")
    assert (code, err) == (0, "")
    assert "minigpt --help  " in out
    document = written("startup.json")
    assert document["commands"]["minigpt --help"]["n"] == 2
    assert document["machine"]["minigpt"] == __version__


@pytest.mark.usefixtures("_no_children")
def test_mixer_speeds_are_printed_and_written_and_a_failure_does_not_stop_the_others(minigpt: Command) -> None:
    options = ("--times", "4,8", "--batch", "1", "--repeats", "1", "--threads", "1", "--json", "mixers.json")
    code, out, err = minigpt("bench", "mixers", "--names", "mha,gla,gqa", *options)
    assert code == 0
    assert err.splitlines()[:2] == ["mha, T = 4", "mha, T = 8"]
    assert "no [such] luck" in out
    assert "591,360" in out
    assert out.splitlines()[-1].startswith("batch 1, fp32; ")
    document = written("mixers.json")
    assert [(row["mixer"], row["time"]) for row in document["rows"]] == [
        (name, time) for name in ("mha", "gla", "gqa") for time in (4, 8)
    ]
    assert [row["error"] is None for row in document["rows"]] == [True, True, False, False, True, True]


@pytest.mark.usefixtures("_no_children")
def test_the_ratio_of_long_to_short_is_printed_if_both_were_measured(minigpt: Command) -> None:
    options = ("--times", "8,16,32,512,2048", "--batch", "1", "--repeats", "1", "--threads", "1")
    code, out, _ = minigpt("bench", "mixers", "--names", "short_conv,gla", *options)
    assert code == 0
    assert "time 2048 / 512" in out
    rows = {line.split()[0]: line.rstrip() for line in out.splitlines() if line.strip()}
    speeds = r"( +[\d,]+  [\d,]+){5}"
    assert re.fullmatch(rf" short_conv +590,976{speeds} +\d+\.\d", rows["short_conv"]), "on one line, not cut"
    assert re.fullmatch(r" gla( +no \[such\] luck){5}", rows["gla"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--precision", "bf61"], "training.precision: found \"bf61\" (text); allowed: 'auto', 'fp32' or 'bf16'"),
        (["train", "nowhere.json"], "nowhere.json: there is no such file"),
        (["train", "--device", "cdua"], 'device "cdua" is not available here; allowed: auto, cpu'),
        (["decode", "--set", "model.atention=mha"], 'model.atention: unknown key "atention"'),
        (["decode", "--run", "runs/x", "--set", "seed=1"], "--run: the model is read from the run folder"),
        (["decode", "--run", "runs/x"], "runs/x"),
        (["decode", "--json", "nowhere/x.json"], "nowhere/x.json: there is no folder nowhere"),
        (["mixers", "--times", "8,x"], '--times: found "8,x"; allowed: whole numbers of at least 1'),
        (["mixers", "--times", "0"], '--times: found "0"; allowed: whole numbers of at least 1'),
        (
            ["mixers", "--precision", "fp16", "--names", "mha", "--times", "8"],
            '--precision: found "fp16"; allowed: fp32, bf16',
        ),
        (["mixers", "--names", "mhaa", "--times", "8"], 'unknown mixer "mhaa"; known: '),
    ],
)
@pytest.mark.usefixtures("_no_children")
def test_an_impossible_measurement_is_reported_in_one_line(command: list[str], message: str, minigpt: Command) -> None:
    code, out, err = minigpt("bench", *command)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
