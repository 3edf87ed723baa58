"""The plugins of a run that somebody else made are not executed unless a person asks for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import minigpt as package
from minigpt.errors import TrustError
from minigpt.run import RunFolder
from tests.conftest import Command
from tests.registry.trust.mailed import HOSTILE, NOTHING_BUT_A_MARK, OWN, PLAIN, edit_json, marking, plant_own, plant_unused

SHOWS: list[list[str]] = [
    ["runs"],
    ["runs", "--json"],
    ["report", "RUN"],
    ["report", "RUN", "runs/plain"],
    ["diff", "RUN", "runs/plain/seed-1337"],
    ["diff", "RUN/experiment.json", "plain.json"],
    ["show", "RUN"],
    ["show", "RUN", "--json"],
    ["show", "RUN/experiment.json"],
    ["list"],
    ["schema"],
]
EXECUTES: list[list[str]] = [
    ["generate", "RUN"],
    ["resume", "RUN"],
    ["resume", "RUN", "--accept-changes", "--tensorboard"],
    ["run", "RUN/experiment.json", "--name", "again"],
    ["run", "child.json"],
    ["check", "RUN/experiment.json", "--quick"],
    ["bench", "decode", "--run", "RUN"],
    ["bench", "train", "RUN/experiment.json"],
    ["bench", "decode", "RUN/experiment.json"],
    ["show", "child.json"],
    ["show", "RUN", "--set", "seed=3"],
    ["diff", "child.json", "plain.json"],
]


def _given(words: list[str], run: Path) -> list[str]:
    return [word.replace("RUN", str(run)) for word in words]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_command_executes_plugins_of_a_mailed_run(hostile: str, minigpt: Command, here: Path) -> None:
    plant, run = HOSTILE[hostile]
    mark = here.parent / "executed"
    plant(run, mark)
    Path("child.json").write_text(json.dumps({"extends": str(run / "experiment.json"), "name": "child"}))
    for words in SHOWS:
        code, _, err = minigpt(*_given(words, run))
        assert code == 0, (words, err)
        assert not mark.exists(), words
    for words in EXECUTES:
        code, _, err = minigpt(*_given(words, run))
        assert code == 2, (words, err)
        line = err.splitlines()[-1]
        assert line.startswith("error: not executed: "), (words, err)
        assert "--trust" in line
        assert "--no-plugins" in line
        assert not mark.exists(), words
        if "--no-plugins" not in words and words[0] != "diff":
            assert minigpt(*_given(words, run), "--no-plugins")[0] == 2, words
            assert not mark.exists(), words


@pytest.mark.parametrize("hostile", ["a component that its model uses", "a file outside the run folder that it extends"])
def test_a_comparison_refuses_to_execute_a_mailed_runs_plugins(hostile: str, minigpt: Command, here: Path) -> None:
    plant, run = HOSTILE[hostile]
    mark = here.parent / "executed"
    shutil.copytree("runs/plain", "other")
    plant(run, mark)
    edit_json(Path("other/seed-1337/experiment.json"), name="other")
    for words in (["compare", "other", str(run), "--plan"], ["compare", str(run), "other", "--plan"]):
        code, _, err = minigpt(*words)
        assert code == 2
        assert "not executed: " in err
        assert not mark.exists()


def test_a_comparison_reads_its_own_runs_as_data(minigpt: Command, here: Path) -> None:
    """Whether a run in a comparison's folder is the cell is decided from its records, without executing plugins."""
    mark = here.parent / "executed"
    edit_json(Path("plain.json"), name="base")
    Path("variant.json").write_text(json.dumps({"extends": "plain.json", "name": "variant", "model": {"ffn": "glu"}}))
    begun = Path("comparisons/base/runs/variant/seed-1337")
    shutil.copytree(PLAIN, begun)
    plant_unused(begun, mark)
    code, _, err = minigpt("compare", "plain.json", "variant.json", "--seeds", "1", "--plan")
    assert code == 0, err
    assert not mark.exists()


def test_plugins_of_a_mailed_comparison_are_not_executed_either(minigpt: Command, here: Path) -> None:
    mark = here.parent / "executed"
    Path("comparisons/x/variants").mkdir(parents=True)
    Path("comparisons/x/comparison.json").write_text("{}")
    Path("comparisons/x/evil.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    Path("comparisons/x/variants/a.json").write_text(json.dumps({"plugins": ["../evil.py"]}))
    assert "not executed: " in minigpt("show", "comparisons/x/variants/a.json")[2]
    assert not mark.exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda run: package.open_run(run),
        lambda run: package.generate(run),
        lambda run: next(package.stream(run)),
        lambda run: package.resume(run),
        lambda run: package.load_experiment(run / "experiment.json"),
        lambda run: package.load_experiment({"extends": str(run / "experiment.json")}),
        lambda run: RunFolder(run).experiment(),
    ],
)
def test_the_python_functions_refuse_too(call: Callable[[Path], object], here: Path) -> None:
    mark = here.parent / "executed"
    plant_own(OWN, mark)
    with pytest.raises(TrustError, match=r"plugins/own\.py \(SHA-256 [0-9a-f]{64}\).*trust=True"):
        call(OWN)
    assert not mark.exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda run: package.open_run(run, trust=True),
        lambda run: package.generate(run, trust=True),
        lambda run: next(package.stream(run, trust=True)),
        lambda run: package.load_experiment(run / "experiment.json", trust=True),
    ],
)
def test_the_python_functions_execute_trusted_plugins(call: Callable[[Path], object], here: Path) -> None:
    mark = here.parent / "executed"
    plant_own(OWN, mark)
    call(OWN)
    assert mark.exists()
