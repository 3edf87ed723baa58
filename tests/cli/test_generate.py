"""`minigpt generate`: seeds, prompts, checkpoints, and folders that are no sound run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.small import ROOT, SHORT
from tests.conftest import Command


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
        (["--top-p", "2"], "sampling.sampler.top_p: found 2.0 (number); allowed: at most 1"),
        (["--min-p", "-1"], "sampling.sampler.min_p: found -1.0 (number); allowed: at least 0"),
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
