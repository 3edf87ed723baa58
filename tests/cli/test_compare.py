"""`minigpt compare` as a user calls it, with child processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minigpt.run import RunFolder, checkpoint
from tests.conftest import Command
from tests.lab.compare.conftest import Write, write

__all__ = ["write"]  # the fixture


@pytest.mark.slow
def test_two_variants_are_trained_compared_and_written_to_files(minigpt: Command, write: Write) -> None:
    files = [write("base"), write("variant", model={"ffn": "glu"})]
    code, out, _ = minigpt("compare", *files, "--seeds", "1", "--no-noise", "--plan")
    assert code == 0
    assert "base: 2 variants, seed 5: 2 runs, 0 exist already" in out
    assert "2 runs to train: about" in out
    assert not Path("comparisons/base/runs").exists()
    written = ["--json", "all.json", "--csv", "runs.csv", "--markdown", "tables.md"]
    code, out, err = minigpt("compare", *files, "--seeds", "1", "--no-noise", "--jobs", "2", *written)
    assert code == 0, err
    assert "variant, seed 5: finished" in out
    assert "whether variant is better or worse than base is not known" in out
    assert "not shown: that it holds beyond one text" in out
    assert "no verdict: 1 seed cannot show how large chance effects are; 3 can" in " ".join(out.split())
    document = json.loads(Path("all.json").read_text())
    assert document == json.loads(Path("comparisons/base/comparison.json").read_text())
    losses = {variant["name"]: variant["runs"][0]["loss"] for variant in document["variants"]}
    for name, loss in losses.items():
        run = RunFolder(Path(f"comparisons/base/runs/{name}/seed-5"))
        assert run.rows()[-1].val_loss == loss
    with Path("runs.csv").open() as file:
        assert {row["variant"]: float(row["loss"]) for row in csv.DictReader(file)} == losses
    tables = Path("tables.md").read_text()
    assert f"| variant | {losses['variant']:.4f} | {losses['variant'] - losses['base']:+.4f} |" in tables
    before = {file: file.stat().st_mtime_ns for file in Path("comparisons").rglob("metrics.jsonl")}
    code, out, _ = minigpt("compare", *files, "--seeds", "1", "--no-noise")
    assert (code, "2 exist already" in out, "to train" in out) == (0, True, False)
    assert before == {file: file.stat().st_mtime_ns for file in Path("comparisons").rglob("metrics.jsonl")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base.json", "--no-noise"], "compare needs a base and at least one variant"),
        (["base.json", "--seeds", "3..5"], "--seeds FIRST..MOST needs a base and at least one variant"),
        *(
            (
                ["base.json", "other.json", "--seeds", found],
                f'--seeds: found "{found}"; allowed: a number from 1 to 10,000, such',
            )
            for found in ("0", "-1", "x", "3..", "..5", "5..3", "3..3", "0..4", "3..10001", "3...5", "3..5..7", "")
        ),
        (
            ["base.json", "other.json", "--budget", "token"],
            '--budget: found "token"; allowed: flops, steps, time, tokens; did you mean',
        ),
        (["base.json", "other.json", "--unit", "bits"], '--unit: found "bits"; allowed: bits-per-byte, nats'),
        (["base.json", "other.json", "--json", "no/all.json"], "no/all.json: there is no folder no"),
        (["base.json", "other.json", "--csv", "."], ". is a folder: name a file"),
        (["base.json", "missing.json"], "missing.json"),
        (["base.json", "other.json", "--name", ".."], '--name: found ".." (text); allowed: letters, digits'),
        (["base.json", "other.json", "--name", "a/b"], '--name: found "a/b" (text); allowed: letters, digits'),
        (["base.json", "other.json", "--name", ""], '--name: found "" (text); allowed: letters, digits'),
        (["base.json", "other.json", "--set", "othr:seed=1"], 'there is no variant "othr"; allowed: base, other; did you'),
        (["base.json", "other.json", "--set", "other:sed=1"], 'other.json: sed: unknown key "sed"; allowed: '),
        (["base.json", "--grid", "base:model.n_layers=1,x"], 'base.json: model.n_layers: found "x" (text)'),
        (["base.json", "other.json", "--tune", "seed=1,2"], "--tune seed is not possible: it is the same for all"),
        (["base.json", "other.json", "--tune-seeds", "2"], "--tune-seeds is about --tune: add --tune learning_rate"),
        (["base.json", "other.json", "--tune", "seed", "--tune-budget", "2"], "--tune-budget: found 2; allowed: a part of"),
        (["base.json", "same.json", "--match", "params", "--knob", "model.x"], '--knob model.x: same has no "x" in model'),
        (["base.json", "other.json", "--match", "params", "--knob", "model.x"], '--knob model.x: other has no "x" in model'),
    ],
)
def test_mistakes_are_reported_in_one_line(minigpt: Command, write: Write, arguments: list[str], message: str) -> None:
    write("base")
    write("other", model={"d_model": 32})
    write("same")
    code, _, err = minigpt("compare", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def compare(*arguments: str, variants: tuple[str, ...] = ("variant",)) -> list[str]:
    files = [f"{name}.json" for name in ("base", *variants)]
    return [sys.executable, "-m", "minigpt", "compare", *files, "--no-noise", *arguments]


CRASHING = '''
import sys
from minigpt import register
from minigpt.contracts import Schedule

@register("schedule", "crashing")
class Crashing(Schedule):
    """Constant, until it raises or diverges. It fails only in the training process, so that no check finds it before."""
    def __init__(self, max_iters: int, *, how: str = "raise"):
        self.how = how if "minigpt.lab.compare.cell:do" in sys.argv else ""
    def factor(self, step: int) -> float:
        if step == 10 and self.how == "raise":
            raise RuntimeError("boom")
        return float("1e30") if self.how == "diverge" and step > 10 else 1.0
'''


@pytest.mark.slow
@pytest.mark.parametrize("named", ["in the experiment", "on the command line"])
def test_a_plugin_is_announced_once_although_another_process_tries_it_first(write: Write, named: str) -> None:
    Path("crashing.py").write_text(CRASHING.replace("import sys", "import sys\nsys.stderr.write('executed' + chr(10))"))
    plugins = {"plugins": ["crashing.py"]} if named == "in the experiment" else {}
    options = [] if plugins else ["--plugin", "crashing.py"]
    write("base")
    write("variant", **plugins, training={"schedule": "crashing"})
    done = subprocess.run(compare("--plan", *options), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("plugin: ") or line == "executed"]
    assert [line.split()[0] for line in lines[:2]] == ["plugin:", "executed"]
    assert lines[1:] == ["executed"] * (2 if plugins else 3), "by the process that tries it, and by the main process"


@pytest.mark.slow
def test_planted_variants_have_the_expected_outcomes(write: Write) -> None:
    """Variants that crash at step 10, diverge, are twice as large, or equal the base. Another tokenizer is refused."""
    Path("crashing.py").write_text(CRASHING)
    plan = {"training": {"max_iters": 30, "eval_interval": 10, "grad_clip": None}}

    def training(how: str) -> dict[str, object]:
        return {"plugins": ["crashing.py"], "training": {**plan["training"], "schedule": {"name": "crashing", "how": how}}}

    write("base", **plan)
    write("same", **plan)
    write("twice", **plan, model={"d_model": 24})
    write("crashes", **training("raise"))
    write("diverges", **training("diverge"))
    write("bytes", **plan, tokenizer="byte")
    names = ("same", "twice", "crashes", "diverges")
    done = subprocess.run(compare("--jobs", "2", "--json", "all.json", variants=names), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    variants = {variant["name"]: variant for variant in json.loads(Path("all.json").read_text())["variants"]}
    assert {name: variant["verdict"] for name, variant in variants.items() if name != "twice"} == {
        "base": "the base",
        "same": "equivalent within 0.01",
        "crashes": "crashed",
        "diverges": "diverged",
    }
    assert variants["same"]["difference"]["mean"] == 0
    assert variants["twice"]["difference"]["n"] == 3
    assert variants["twice"]["cost"]["total"] > 1.8 * variants["base"]["cost"]["total"]
    assert f"({variants['twice']['cost']['total'] / variants['base']['cost']['total']:.2f}×)" in done.stdout
    for run in variants["crashes"]["runs"]:
        assert run["message"] == "RuntimeError: boom"
        assert [row.step for row in RunFolder(Path("comparisons/base") / run["run"]).rows()][-1] in (9, 10)
    assert all("is not finite" in run["message"] for run in variants["diverges"]["runs"])
    refused = subprocess.run(compare(variants=("bytes",)), capture_output=True, text=True)
    assert refused.returncode == 2
    assert "bytes and base have different tokenizers (byte, char)" in refused.stderr


@pytest.mark.slow
def test_a_killed_comparison_continues_and_ends_as_an_uninterrupted_one(write: Write, tmp_path: Path) -> None:
    """Several SIGKILLs during the comparison: no run is missing, none is trained twice, and the table is the same.

    One seed gives no verdict, so the second one is added.
    """
    long = {"training": {"max_iters": 300, "eval_interval": 100, "checkpoint_interval": 20}}
    write("base", **long)
    write("variant", **{**long, "model": {"ffn": "glu"}})
    subprocess.run(compare("--seeds", "1..2", "--name", "whole", "--markdown", "whole.md"), check=True, capture_output=True)
    for after in (9, 14, 6):
        process = subprocess.Popen(
            compare("--seeds", "1..2", "--name", "killed"), stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(after)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    time.sleep(5)  # the child processes notice that their parent ended, and save
    subprocess.run(
        compare("--seeds", "1..2", "--name", "killed", "--markdown", "killed.md"), check=True, capture_output=True
    )
    folder = Path("comparisons/killed/runs")
    assert not list(folder.rglob("*.old-*"))
    for name in ("base", "variant"):
        for seed in (5, 6):
            rows = RunFolder(folder / name / f"seed-{seed}").rows()
            assert [row.step for row in rows] == list(range(1, 301))
    whole, killed = (Path(f"{name}.md").read_text().partition("**What it costs")[0] for name in ("whole", "killed"))
    assert whole == killed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_unfinished_runs(number: signal.Signals, write: Write) -> None:
    long = {"training": {"max_iters": 3000, "eval_interval": 1000}}
    write("base", **long)
    write("variant", **{**long, "model": {"ffn": "glu"}})
    process = subprocess.Popen(
        compare("--seeds", "1"),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell's background processes ignore SIGINT
    )
    metrics = Path("comparisons/base/runs/base/seed-5/metrics.jsonl")
    while not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "stopped, unfinished runs are saved; continue with the same command" in err
    last = RunFolder(Path("comparisons/base/runs/base/seed-5")).rows()[-1].step
    assert checkpoint.available(metrics.parent / "checkpoints")[-1] >= last, "an update's record may wait for the next one"


AT_ONCE = {
    "raises": "raise RuntimeError('boom')",
    "exits": "import os\nos._exit(3)",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "hangs": "while True:\n    pass",
}
WHEN_USED = '''
from minigpt import register
from minigpt.components.norm.rmsnorm import RMSNorm

@register("norm", "odd")
class Odd(RMSNorm):
    """Raises, or mixes later positions into earlier ones."""
    def __init__(self, width: int, *, how: str):
        super().__init__(width)
        self.how = how
    def forward(self, x):
        if self.how == "raise":
            raise RuntimeError("in forward")
        return super().forward(x - x.mean(-2, keepdim=True))
'''
IN_TRAINING = '''
import ctypes, os, sys, time
from minigpt import register
from minigpt.contracts import Schedule

@register("schedule", "failing")
class Failing(Schedule):
    """Constant, until it fails in the training process."""
    def __init__(self, max_iters: int, *, how: str):
        self.how = how if "minigpt.lab.compare.cell:do" in sys.argv else ""
    def factor(self, step: int) -> float:
        if step == 3 and self.how == "exit":
            os._exit(5)
        if step == 3 and self.how == "crash":
            ctypes.string_at(0)
        if step == 3 and self.how == "hang":
            time.sleep(10_000)
        return 1.0
'''


@pytest.mark.slow
def test_a_plugin_that_raises_exits_hangs_or_crashes_fails_only_its_own_variant(write: Write) -> None:
    write("base")
    write("sound", model={"ffn": "glu"})
    for name, source in AT_ONCE.items():
        Path(f"{name}.py").write_text(source + "\n")
        write(name, plugins=[f"{name}.py"])
    Path("failing.py").write_text(IN_TRAINING)
    for how in ("exit", "crash", "hang"):
        write(f"{how}-later", plugins=["failing.py"], training={"schedule": {"name": "failing", "how": how}})
    Path("odd.py").write_text(WHEN_USED)
    for how in ("raise", "leak"):
        write(f"{how}-in-use", plugins=["odd.py"], model={"norm": {"name": "odd", "how": how}})
    in_use = ("raise-in-use", "leak-in-use")
    later = ("exit-later", "crash-later", "hang-later")
    options = ("--seeds", "1", "--jobs", "2", "--patience", "0.75", "--json", "all.json")
    done = subprocess.run(compare(*options, variants=("sound", *AT_ONCE, *in_use, *later)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(Path("all.json").read_text())
    failed = {variant["name"]: variant["message"] for variant in document["failed"]}
    assert set(failed) == {*AT_ONCE, *in_use}
    assert "violates its contract" in failed["leak-in-use"]
    assert "RuntimeError: boom (line 1)" in failed["raises"]
    assert "its trial run ended the process with exit code 3" in failed["exits"]
    assert "its trial run ended the process with signal 11" in failed["crashes"]
    assert "its trial run did not finish within 45 s" in failed["hangs"]
    runs = {variant["name"]: variant["runs"][0] for variant in document["variants"]}
    assert {name: run["outcome"] for name, run in runs.items()} == {
        **dict.fromkeys(("base", "sound"), "finished"),
        **dict.fromkeys(later, "crashed"),
    }
    assert "exit code 5" in runs["exit-later"]["message"]
    assert "signal 11" in runs["crash-later"]["message"]
    assert "was killed, because it showed no progress" in runs["hang-later"]["message"]
    for variant in ("raises", "exits", "crashes", "hangs", *in_use, *later):
        assert any(line.split()[:1] == [variant] and line.rstrip().endswith("crashed") for line in done.stdout.splitlines())
    page = subprocess.run([sys.executable, "-m", "minigpt", "report", "comparisons/base"], capture_output=True, text=True)
    assert page.returncode == 0, page.stderr
    assert "boom" in Path("comparisons/base/report.html").read_text()
