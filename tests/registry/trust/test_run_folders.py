"""A run folder is recognised as one whatever files it lacks, and is data, never a plugin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import minigpt as package
from minigpt.errors import TrustError
from tests.conftest import Command
from tests.registry.trust.mailed import NOTHING_BUT_A_MARK, OWN, PLAIN, marking


@pytest.mark.parametrize("within", ["", "seed-1", "runs/seed-1"])
def test_a_folder_of_runs_is_not_a_plugin(within: str, minigpt: Command, here: Path) -> None:
    mailed, mark = Path("mailed"), here.parent / "executed"
    shutil.copytree(next(Path("runs/plain").glob("seed-*")), mailed / within)
    (mailed / "experiment.json").rename(mailed / "comparison.json") if not within else None
    (mailed / "__init__.py").write_text(f"open({str(mark)!r}, 'w')")
    code, _, err = minigpt("check", mailed)
    assert (code, err) == (
        2,
        "error: mailed is a folder of runs, which is data; name one of its runs, or a plugin: --plugin FILE\n",
    )
    assert not mark.exists()


def _nothing_else(run: Path) -> str:
    return "experiment.json"


def _another_file(name: str) -> Callable[[Path], str]:
    def plant(run: Path) -> str:
        (run / "experiment.json").rename(run / "other.json")
        (run / "experiment.json").write_text("{}")
        (run / name).mkdir() if "." not in name else (run / name).touch()
        return "other.json"

    return plant


def _linked(run: Path) -> str:
    (run / "target").mkdir()
    (run / "experiment.json").rename(run / "target/experiment.json")
    (run / "harmless.json").symlink_to("target/experiment.json")
    return "harmless.json"


def _link_of_that_name(run: Path) -> str:
    (run / "experiment.json").rename(run / "other.json")
    (run / "experiment.json").symlink_to("other.json")
    return "experiment.json"


def _of_a_stopped_comparison(run: Path) -> str:
    (run / "inputs/experiments").mkdir(parents=True)
    (run / "experiment.json").rename(run / "inputs/experiments/0123.json")
    return "inputs/experiments/0123.json"


SPARSE: dict[str, Callable[[Path], str]] = {
    "nothing else": _nothing_else,
    "a link to experiment.json": _linked,
    "a link named experiment.json": _link_of_that_name,
    "a stopped comparison": _of_a_stopped_comparison,
    **{
        f"a file beside experiment.json and {name}": _another_file(name)
        for name in ("manifest.json", "tokenizer.json", "checkpoints", "samples.txt", "metrics.jsonl", "plugins")
    },
}


@pytest.mark.parametrize("sparse", SPARSE)
def test_plugins_of_an_incomplete_run_folder_are_not_executed_either(sparse: str, minigpt: Command, here: Path) -> None:
    """The sender of a folder chooses its files, so missing files must not weaken the check."""
    mark, run = here.parent / "executed", Path("mailed")
    run.mkdir()
    Path("evil.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    (run / "experiment.json").write_text(json.dumps({"plugins": [str(here / "evil.py")]}))
    file = run / SPARSE[sparse](run)
    for words in (["show"], ["diff", "plain.json"], ["check", "--quick"], ["compare", "plain.json", "--plan"]):
        assert minigpt(words[0], file, *words[1:])[0] in ((0, 2) if words[0] in ("show", "diff") else (2,))
        assert not mark.exists(), words
    with pytest.raises(TrustError, match="not executed: "):
        package.load_experiment(file)
    assert not mark.exists()


@pytest.mark.slow
def test_a_run_folder_is_checked_as_a_run_and_never_executed_as_a_plugin(minigpt: Command, here: Path) -> None:
    mark = here.parent / "executed"
    (PLAIN / "__init__.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    (OWN / "__init__.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    some = ("--only", "stepwise")
    code, out, err = minigpt("check", PLAIN, *some)
    assert code == 0, err
    assert str(PLAIN) in out
    assert minigpt("check", PLAIN, *some, "--no-plugins")[0] == 0
    code, _, err = minigpt("check", OWN, *some)
    assert (code, "not executed: " in err) == (2, True)
    assert minigpt("check", OWN, "norm/none", *some, "--trust", "--jobs", "2")[0] == 0
    assert not mark.exists()
