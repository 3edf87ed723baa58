"""The commands as a user calls them: most in this process, some in a separate process."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt import __version__
from minigpt.components.dataset.tinyshakespeare import TinyShakespeare
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run import RunFolder
from minigpt.system import download as cache
from tests.conftest import Command

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.json"))
TINY = ["--set", "model.d_model=16", "--set", "model.n_heads=2", "--set", "model.n_layers=1", "--set", "model.block_size=16"]
SHORT = [
    "--set",
    "training.max_iters=4",
    "--set",
    "training.eval_interval=2",
    "--set",
    "training.batch_size=2",
    "--set",
    "sampling.max_new_tokens=5",
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    """Settings for a small corpus."""
    (tmp_path / "corpus.txt").write_text("ROMEO: It was the lark, The herald of the morn.\n" * 60)
    return ["--set", 'data={"name": "text", "paths": ["corpus.txt"]}']


@pytest.fixture
def trained(minigpt: Command, corpus: list[str]) -> Path:
    code, _, err = minigpt("run", ROOT / "experiments/baseline.json", *TINY, *SHORT, *corpus)
    assert code == 0, err
    return Path("runs/baseline/seed-1337")


# ---------------------------------------------------------------------------------------------------------- run


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_shipped_experiment_runs_and_generates(file: Path, minigpt: Command, corpus: list[str]) -> None:
    """With its own components, on a small text and for a few updates."""
    pattern = load_experiment(file).model.layers
    small = [
        "model.block_size=32",
        f"model.n_layers={max(2, len(pattern))}",
        "training.max_iters=3",
        "training.eval_interval=3",
    ]
    changes = [word for change in small for word in ("--set", change)]
    code, out, err = minigpt("run", file, *SHORT, *corpus, *changes, "--no-check")
    assert code == 0, err
    assert "validation loss" in out
    next_command = re.search(r"minigpt (generate \S+)", out)
    assert next_command
    code, out, err = minigpt(*next_command[1].split(), "ROMEO", "--max-new-tokens", "10", "--seed", "1")
    assert code == 0, err
    assert out.startswith("ROMEO")
    if load_experiment(file).tokenizer.name == "char":  # one token per character
        assert len(out) == len("ROMEO") + 10 + 1


def test_the_plugin_example_is_found_loaded_copied_and_announced(minigpt: Command, corpus: list[str]) -> None:
    code, out, err = minigpt("run", ROOT / "experiments/talking_heads.json", *SHORT, *corpus)
    assert code == 0, err
    assert f"plugin: {ROOT / 'plugins/talking_heads.py'}" in out
    assert (Path("runs/talking_heads/seed-1337/plugins/talking_heads.py")).is_file()
    code, _, err = minigpt("run", ROOT / "experiments/talking_heads.json", "--no-plugins", "--fresh")
    assert code == 2
    assert "plugins are refused (--no-plugins)" in err


@pytest.mark.slow
def test_the_baseline_trains_on_the_real_corpus_if_it_is_in_the_cache(
    minigpt: Command, corpus: list[str], real_corpus: bool
) -> None:
    """The documented model; on a small text if TinyShakespeare is not in the cache."""
    data = [] if real_corpus else corpus
    updates = ["--set", "training.max_iters=2", "--set", "training.batch_size=2", "--set", "training.eval_interval=2"]
    code, out, err = minigpt(
        "run", ROOT / "experiments/baseline.json", *updates, *data, "--set", "sampling.max_new_tokens=5"
    )
    assert code == 0, err
    if real_corpus:
        assert "baseline: 10,770,816 parameters, 1,024 tokens in 2 steps" in out
    assert RunFolder(Path("runs/baseline/seed-1337")).rows()[-1].val_loss < 4.3


@pytest.fixture
def real_corpus() -> bool:
    return cache.cached(TinyShakespeare.remote)


def test_without_a_network_the_baseline_says_how_to_continue(minigpt: Command) -> None:
    code, _, err = minigpt("run", ROOT / "experiments/baseline.json")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "minigpt data add tinyshakespeare FILE; or start with experiments/quickstart.json" in err
    assert not RunFolder(Path("runs/baseline/seed-1337")).path.exists()


def test_options_override_the_file(minigpt: Command, corpus: list[str]) -> None:
    options = ["--seed", "7", "--name", "mine", "--out", "other", "--set", "model.attention.name=gqa", "--device", "cpu"]
    code, _, err = minigpt("run", ROOT / "experiments/baseline.json", *TINY, *SHORT, *corpus, *options)
    assert code == 0, err
    resolved = json.loads(Path("other/mine/seed-7/experiment.json").read_text())
    assert (resolved["name"], resolved["seed"], resolved["model"]["attention"]["name"]) == ("mine", 7, "gqa")


def test_fresh_keeps_the_existing_run(minigpt: Command, corpus: list[str], trained: Path) -> None:
    again = ["run", ROOT / "experiments/baseline.json", *TINY, *SHORT, *corpus]
    code, _, err = minigpt(*again)
    assert code == 2
    assert "holds a run already" in err
    code, out, _ = minigpt(*again, "--fresh")
    assert code == 0
    assert "the earlier run is kept as runs/baseline/seed-1337.old-1" in out
    assert RunFolder(Path("runs/baseline/seed-1337.old-1")).rows() != []


def test_a_prompt_with_characters_not_in_the_corpus_is_refused_before_training(minigpt: Command, corpus: list[str]) -> None:
    code, _, err = minigpt("run", ROOT / "experiments/baseline.json", *corpus, "--set", "sampling.prompt=xyz")
    assert code == 2
    assert "sampling.prompt: character 'x' (U+0078, at 0) is not in the vocabulary" in err
    assert not list(Path("runs").rglob("experiment.json"))


# ----------------------------------------------------------------------------------------------------- generate


def test_equal_seeds_generate_equal_text(minigpt: Command, trained: Path) -> None:
    first = minigpt("generate", trained, "ROMEO:", "--seed", "3", "--max-new-tokens", "50")
    assert first == minigpt("generate", trained, "ROMEO:", "--seed", "3", "--max-new-tokens", "50")
    code, out, err = minigpt("generate", trained, "ROMEO:", "--max-new-tokens", "50")
    assert code == 0
    seed = re.fullmatch(r"seed (\d+)\n", err)
    assert seed, "a drawn seed is printed"
    assert minigpt("generate", trained, "ROMEO:", "--seed", seed[1], "--max-new-tokens", "50")[1] == out


def test_several_samples_have_headings(minigpt: Command, trained: Path) -> None:
    code, out, _ = minigpt("generate", trained, "ROMEO", "--num-samples", "3", "--seed", "1", "--max-new-tokens", "9")
    assert code == 0
    assert [f"--- sample {n} of 3\nROMEO" in out for n in (1, 2, 3)] == [True] * 3
    one = minigpt("generate", trained, "ROMEO", "--seed", "1", "--max-new-tokens", "9")[1]
    assert one in out, "the first of many samples equals a single sample"


def test_show_prints_the_size_of_the_decoding_state(minigpt: Command) -> None:
    def last_line(*changes: str) -> str:
        settings = [word for change in changes for word in ("--set", change)]
        code, out, err = minigpt("show", ROOT / "experiments/quickstart.json", "--vocab-size", "65", *settings)
        assert code == 0, err
        return out.splitlines()[-1]

    # keys and values in 4 layers with 4 heads of size 32, four bytes each; a window of 8 keeps 16 tokens
    assert last_line() == "decoding state: 4,096 bytes per token; 524,288 bytes at 128 tokens (fp32)"
    window = last_line("model.attention.window=8")
    assert window == "decoding state: 65,536 bytes at any length; 65,536 bytes at 128 tokens (fp32)"
    mixed = last_line("model.position=none", 'model.layers=[{"attention":{"window":8}},{}]')
    assert (
        mixed == "decoding state: 2,048 bytes per token and 32,768 bytes at any length; 294,912 bytes at 128 tokens (fp32)"
    )


def test_a_model_that_decodes_without_end_sees_the_whole_of_a_long_prompt(minigpt: Command, corpus: list[str]) -> None:
    parts = [
        "model.attention=retention",
        "model.position=none",
        "model.d_model=16",
        "model.n_heads=2",
        "model.block_size=16",
    ]
    settings = [word for part in parts for word in ("--set", part)]
    assert minigpt("run", ROOT / "experiments/baseline.json", *SHORT, *settings, *corpus)[0] == 0
    prompt = "lark " * 20
    code, out, err = minigpt("generate", "runs/baseline/seed-1337", prompt, "--max-new-tokens", "40", "--seed", "1")
    assert (code, err) == (0, ""), "no warning about tokens that it does not see"
    assert out.startswith(prompt)
    assert len(out) == len(prompt) + 41


def test_empty_long_and_unknown_prompts_are_handled(minigpt: Command, trained: Path) -> None:
    few = ["--max-new-tokens", "5", "--seed", "1"]
    code, out, _ = minigpt("generate", trained, "", *few)
    assert code == 0
    assert len(out) == 6
    code, out, err = minigpt("generate", trained, "lark " * 20, *few)
    assert code == 0
    assert "the prompt has 100 tokens; the model sees the last 16" in err
    code, out, err = minigpt("generate", trained, "héllo", *few)
    assert code == 2
    assert err.count("\n") == 1
    assert "error: the prompt: character 'é' (U+00E9, at 1) is not in the vocabulary of" in err
    greedy = [minigpt("generate", trained, "the", "--temperature", "0", "--seed", str(seed))[1] for seed in (1, 2)]
    assert greedy[0] == greedy[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top-p", "2"], "sampling: top_p: found 2.0 (number); allowed: at most 1"),
        (["--min-p", "-1"], "sampling: min_p: found -1.0 (number); allowed: at least 0"),
        (["--checkpoint", "999"], "has no checkpoint of step 999; available: 2, 4"),
        (["--checkpoint", "worst"], 'names no "worst" checkpoint'),
    ],
)
def test_wrong_options_are_reported_in_one_line(options: list[str], message: str, minigpt: Command, trained: Path) -> None:
    code, out, err = minigpt("generate", trained, "ROMEO", "--seed", "1", *options)
    assert code == 2
    assert message in err
    assert out == ""


def test_a_checkpoint_can_be_chosen(minigpt: Command, trained: Path) -> None:
    assert minigpt("generate", trained, "ROMEO", "--seed", "1", "--checkpoint", "2")[0] == 0


def test_generating_from_a_folder_without_a_run_is_refused(minigpt: Command, trained: Path) -> None:
    code, _, err = minigpt("generate", "runs/baseline", "x")
    assert code == 2
    assert "runs/baseline is not a run folder: it has no experiment.json; did you mean runs/baseline/seed-1337?" in err


# --------------------------------------------------------------------------------------- show, list, schema, data


def test_show_prints_the_resolved_experiment_and_counts(minigpt: Command) -> None:
    code, out, _ = minigpt("show", ROOT / "experiments/baseline.json", "--vocab-size", "65")
    assert code == 0
    document, _, table = out.partition("\n}\n")
    assert json.loads(document + "}")["model"]["norm"]["eps"] == 1e-5
    assert "10,770,816" in table
    assert re.search(r"blocks\.0–5 +PreNormBlock +10,646,784", table)
    code, out, _ = minigpt("show", ROOT / "experiments/baseline.json", "--json", "--set", 'model.layers=[{},{"ffn":"glu"}]')
    assert json.loads(out)["model"]["layers"][1]["ffn"]["name"] == "glu"
    out = minigpt("show", ROOT / "experiments/baseline.json", "--set", 'model.layers=[{},{"ffn":"glu"}]')[1]
    assert "blocks.0 " in out
    assert "blocks.1 " in out
    assert re.search(r"\n *0, 2, 4 +none *\n *1, 3, 5 +ffn +glu in place of mlp *\n", out)
    assert "a placeholder, because the corpus is not on this machine; set it with --vocab-size" in " ".join(out.split())


def test_runs_shows_the_progress_of_each_run(minigpt: Command, trained: Path) -> None:
    damaged = Path("runs/baseline/seed-2")
    damaged.mkdir()
    (damaged / "experiment.json").write_text("{")
    shutil.copytree(trained, trained.with_name("seed-1337.old-1"))
    stopped = shutil.copytree(trained, trained.with_name("seed-3"))
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(lines[:3]))
    shutil.rmtree(stopped / "checkpoints/step-00000004")  # it records that there are four lines
    losses = [row.val_loss for row in RunFolder(trained).rows() if row.val_loss is not None]
    rows = {row["run"]: row for row in json.loads(minigpt("runs", "--json")[1])}
    assert {name: (row["state"], row["step"]) for name, row in rows.items()} == {
        "runs/baseline/seed-1337": ("finished", 4),
        "runs/baseline/seed-2": ("damaged", 0),
        "runs/baseline/seed-3": ("stopped", 3),
    }
    assert (rows[str(trained)]["last"], rows[str(trained)]["best"]) == (losses[-1], min(losses))
    with RunFolder(stopped).locked():
        code, out, _ = minigpt("runs")
    assert code == 0
    assert re.search(r"seed-1337 +finished +4/4 +" + f"{losses[-1]:.4f}", out)
    assert re.search(r"seed-3 +running +3/4", out)
    code, _, err = minigpt("runs", "nowhere")
    assert (code, "there is no folder nowhere; to create a run:" in err) == (2, True)


def test_diff_shows_the_differences_between_runs(minigpt: Command, trained: Path, corpus: list[str]) -> None:
    assert minigpt("diff", trained, trained)[1] == "no differences\n"
    other = ["--set", "model.norm=rmsnorm", "--seed", "8", "--name", "other"]
    assert minigpt("run", ROOT / "experiments/baseline.json", *TINY, *SHORT, *corpus, *other)[0] == 0
    code, out, _ = minigpt("diff", trained, "runs/other/seed-8")
    assert code == 0
    words = " ".join(out.split())
    assert "seed 1337 8" in words
    assert "model.norm" in words
    first, second = (RunFolder(Path(run)).rows()[-1].val_loss for run in (trained, "runs/other/seed-8"))
    assert f"last loss {first:.4f} {second:.4f} ({second - first:+.4f})" in words
    assert "machine" not in words
    code, out, _ = minigpt("diff", ROOT / "experiments/quickstart.json", ROOT / "experiments/sandwich.json")
    assert (code, out.count("model.")) == (0, 1)


def test_show_counts_and_measures_what_a_model_costs(minigpt: Command) -> None:
    small = ["--set", "model.n_layers=1", "--set", "training.batch_size=2", "--set", "model.block_size=16"]
    code, out, _ = minigpt("show", ROOT / "experiments/quickstart.json", "--vocab-size", "65", "--cost", *small)
    assert code == 0
    assert re.search(r"parameters, attention +66,048", out)
    assert re.search(r"parameters, total +\d", out)
    assert "used by each token" not in out
    assert len(re.findall(r"[\d,]+ tokens/s \([\d,]+ to [\d,]+\)", out)) == 2
    moe = minigpt(
        "show", ROOT / "experiments/quickstart.json", "--vocab-size", "65", "--cost", *small, "--set", "model.ffn=moe"
    )
    assert re.search(r"used by each token +\d", moe[1])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("experiment.json", "{", "experiment.json: not JSON"),
        ("provenance.json", "[]", "provenance.json is damaged: found list; allowed: an object"),
        ("provenance.json", "{}", "provenance.json is damaged: it lacks command, components, core, data"),
        ("provenance.json", "\0", "provenance.json is damaged"),
        (
            "provenance.json",
            '{"format": 2, "versions": {"minigpt": "9.1"}}',
            "provenance.json has the format 2, and this version reads 1; open the run with the version that wrote it: minigpt 9.1",
        ),
        ("provenance.json", '{"core": "0"}', "provenance.json has no format number, and this version reads 1; open the run"),
        ("tokenizer.json", "{}", "the learned values of the tokenizer are damaged: KeyError: 'code_points'"),
        ("tokenizer.json", '{"code_points": [-1]}', "the learned values of the tokenizer are damaged: ValueError"),
        ("metrics.jsonl", "", "metrics.jsonl is shorter than the checkpoint recorded: 0 of"),
    ],
)
def test_a_damaged_run_folder_is_reported_in_a_line(
    file: str, content: str, message: str, minigpt: Command, trained: Path
) -> None:
    (trained / "manifest.json").unlink()  # without a manifest only the content of the files is checked
    (trained / file).write_text(content)
    last = json.loads((trained / "checkpoints/step-00000004/state.json").read_text())
    assert last["progress"]["step"] == 4
    shutil.rmtree(trained / "checkpoints/step-00000004")  # the newest checkpoint left is step 2, so the run can be resumed
    command = ["resume", trained] if file == "metrics.jsonl" else ["generate", trained, "ROMEO", "--checkpoint", "last"]
    code, _, err = minigpt(*command)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) <= 2


def test_an_output_folder_that_cannot_be_written_is_reported(minigpt: Command, corpus: list[str]) -> None:
    Path("in-the-way").write_text("")
    code, _, err = minigpt("run", ROOT / "experiments/baseline.json", *TINY, *SHORT, *corpus, "--out", "in-the-way")
    assert code == 2
    assert re.search(r"^error: in-the-way\S* cannot be written: (Not a directory|File exists)$", err, re.MULTILINE)


def test_show_knows_a_runs_vocabulary(minigpt: Command, trained: Path) -> None:
    code, out, _ = minigpt("show", trained)
    assert code == 0
    assert "(of this run)" in out


def test_list_names_every_component_with_its_parameters(minigpt: Command) -> None:
    code, out, _ = minigpt("list")
    assert code == 0
    for family in REGISTRY.families():
        for entry in REGISTRY.entries(family.name):
            assert re.search(rf"^  {re.escape(entry.name)} ", out, re.MULTILINE)
    code, out, _ = minigpt("list", "attention", "--plugin", ROOT / "plugins/talking_heads.py")
    flat = " ".join(out.split())
    assert "n_kv_heads = 2 Key/value heads; must divide n_heads." in flat
    assert "talking_heads" in out
    assert "talking_heads.py:" in "".join(out.split())
    rows = json.loads(minigpt("list", "norm", "--json")[1])
    assert [row["name"] for row in rows] == [entry.name for entry in REGISTRY.entries("norm")]
    code, _, err = minigpt("list", "atention")
    assert code == 2
    assert 'unknown family "atention"; known: attention, block' in err


def test_schema_is_printed_or_written_with_plugins(minigpt: Command) -> None:
    code, out, _ = minigpt("schema")
    assert code == 0
    assert "attention.mha" in json.loads(out)["$defs"]
    assert minigpt("schema", "--out", "s.json", "--plugin", ROOT / "plugins/talking_heads.py")[0] == 0
    assert "attention.talking_heads" in json.loads(Path("s.json").read_text())["$defs"]


def test_data_lists_adds_and_refuses(minigpt: Command, tmp_path: Path) -> None:
    code, out, _ = minigpt("data", "list")
    assert code == 0
    assert re.search(r"tinyshakespeare +not downloaded; use: minigpt data fetch tinyshakespeare", out)
    assert re.search(r"python-docs +no download needed", out)
    (tmp_path / "x.txt").write_text("not it")
    code, _, err = minigpt("data", "add", "tinyshakespeare", "x.txt")
    assert code == 2
    assert "x.txt is not tinyshakespeare.txt: 6 bytes, expected 1,115,394; nothing was added" in err
    assert minigpt("data", "fetch", "tinyshakespeare")[0] == 2
    code, _, err = minigpt("data", "add", "tinyshakespear", "x.txt")
    assert 'did you mean "tinyshakespeare"?' in err
    code, _, err = minigpt("data", "fetch", "python-docs")
    assert '"python-docs" needs no download' in err


# ------------------------------------------------------------------------------------------------------ the process


def process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_help_and_the_package_do_not_import_torch(tmp_path: Path) -> None:
    answer = process("-X", "importtime", "-c", "import minigpt.cli", cwd=tmp_path)
    assert answer.returncode == 0
    modules = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "minigpt.cli" in modules
    assert not modules & {"torch", "numpy", "pydantic", "requests", "jaxtyping"}
    assert process("-c", "import minigpt, sys; assert 'torch' not in sys.modules", cwd=tmp_path).returncode == 0


def test_help_names_every_command_and_version_prints_the_version(tmp_path: Path) -> None:
    answer = process("-m", "minigpt", "--help", cwd=tmp_path)
    assert answer.returncode == 0
    for command in ("run", "resume", "generate", "show", "list", "schema", "data"):
        assert f" {command} " in answer.stdout
    assert process("-m", "minigpt", "--version", cwd=tmp_path).stdout.split() == ["minigpt", __version__]


def test_errors_in_a_process_have_no_traceback(tmp_path: Path) -> None:
    answer = process("-m", "minigpt", "run", "nowhere.json", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr == "error: nowhere.json: there is no such file\n"
    assert process("-m", "minigpt", "rnu", cwd=tmp_path).returncode == 2


def test_a_reader_that_closes_the_pipe_is_no_error(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m minigpt schema | head -n 1; exit ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0
    assert answer.stderr == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_process_without_standard_streams_works(closed: str, tmp_path: Path, corpus: list[str]) -> None:
    """Daemons and cron start processes without them."""
    small = shlex.join([str(ROOT / "experiments/baseline.json"), *TINY, *SHORT, *corpus, "--no-check"])
    minigpt = f"'{sys.executable}' -m minigpt"
    answer = subprocess.run(["bash", "-c", f"{minigpt} run {small} {closed}"], cwd=tmp_path, timeout=120)
    assert answer.returncode == 0
    assert RunFolder(tmp_path / "runs/baseline/seed-1337").is_finished()
    for command in ("runs", "list norm", "diff runs/baseline/seed-1337 runs/baseline/seed-1337"):
        answer = subprocess.run(["bash", "-c", f"{minigpt} {command} {closed}"], cwd=tmp_path, timeout=60)
        assert answer.returncode == 0, command


def test_an_interrupt_while_modules_are_imported_ends_quietly(tmp_path: Path) -> None:
    (tmp_path / "interrupting.py").write_text(
        "import builtins\nplain = builtins.__import__\n"
        "def interrupted(name, *rest):\n    if name == 'minigpt.cli':\n        raise KeyboardInterrupt\n"
        "    return plain(name, *rest)\nbuiltins.__import__ = interrupted\n"
    )
    answer = process("-c", "import interrupting; from minigpt.__main__ import main; main()", cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (130, "")


def test_the_python_names_do_what_the_commands_do(tmp_path: Path, corpus: list[str]) -> None:
    code = """
from minigpt import build_model, generate, load_corpus, load_experiment, register, train
from minigpt.contracts import Schedule

@register("schedule", "half")
class Half(Schedule):
    '''Half the peak.'''
    def __init__(self, max_iters: int): pass
    def factor(self, step): return 0.5

experiment = load_experiment({
    "name": "notebook", "data": {"name": "text", "paths": ["corpus.txt"]},
    "model": {"d_model": 16, "n_heads": 2, "n_layers": 1, "block_size": 16},
    "training": {"max_iters": 3, "schedule": "half", "batch_size": 4},
})
assert build_model(experiment, load_corpus(experiment).vocab_size).n_parameters() > 1000
outcome = train(experiment)
print(len(generate(outcome.run.path, "ROMEO", max_new_tokens=12)[0]))
"""
    answer = process("-W", "error", "-c", code, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "12"


@pytest.mark.slow
def test_the_quickstart_beats_the_bigram_entropy_by_far(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minigpt", "run", str(ROOT / "experiments/quickstart.json")]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0, answer.stderr
    run = RunFolder(tmp_path / "runs/quickstart/seed-1337")
    bigram = run.provenance().data.entropies["bigram"]
    assert run.rows()[-1].val_loss < bigram - 0.5
