"""Which plugins are known, how a person names them, and what is printed before they are executed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from minigpt.registry import plugins
from minigpt.system import process
from tests.conftest import Command
from tests.registry.trust.mailed import OWN, PART, PLAIN, edit_json, plant_unused


@pytest.mark.slow
def test_a_users_own_runs_need_no_permission(minigpt: Command, here: Path) -> None:
    assert minigpt("run", "own.json", "--name", "mine", "--set", "training.max_iters=1")[0] == 0
    code, out, err = minigpt("generate", "runs/mine/seed-1337")
    assert code == 0, err
    assert out
    assert (here.parent / "config/trusted" / plugins.fingerprint(Path("own.py"))).is_file()


@pytest.mark.parametrize(
    "words",
    [["check", "own.py", "--only", "shape"], ["show", "plain.json", "--plugin", "own.py"], ["show", "own.json"]],
)
def test_a_plugin_that_a_person_named_or_checked_is_trusted_by_its_hash(
    words: list[str], minigpt: Command, here: Path
) -> None:
    assert minigpt("generate", OWN)[0] == 2
    assert minigpt(*words)[0] == 0
    assert minigpt("generate", OWN)[0] == 0


def test_trust_prints_names_and_hashes_first_and_lasts_until_the_plugin_changes(minigpt: Command, here: Path) -> None:
    mark = here.parent / "executed"
    plugin = OWN / "plugins/own.py"
    announcing = f"import pathlib, sys\nsys.stderr.write('executed' + chr(10))\npathlib.Path({str(mark)!r}).touch()\n"
    plugin.write_text(announcing + PART)
    sha256 = hashlib.sha256(plugin.read_bytes()).hexdigest()
    refusal = minigpt("generate", OWN)[2]
    assert sha256 in refusal
    assert str(plugin) in refusal
    assert len(refusal.splitlines()) == 1
    code, _, err = minigpt("generate", OWN, "--trust")
    assert code == 0, err
    assert err.index(sha256) < err.index("executed")
    assert mark.exists()
    assert minigpt("generate", OWN)[0] == 0, "the plugin is trusted now"
    plugin.write_text(announcing + PART + "# another\n")
    assert minigpt("generate", OWN)[0] == 2


def test_naming_one_plugin_does_not_allow_the_plugins_of_a_mailed_run(minigpt: Command, here: Path) -> None:
    """--plugin allows only its own file, and not the other plugins that the run names."""
    mark = here.parent / "executed"
    plant_unused(PLAIN, mark)
    code, _, err = minigpt("show", PLAIN, "--plugin", "own.py")
    assert code == 2
    assert "not executed: " in err
    assert not mark.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["list", "--plugin", "announcing.py"],
        ["schema", "--plugin", "announcing.py"],
        ["check", "announcing.py", "norm/rmsnorm", "--only", "shape", "--jobs", "2"],
    ],
)
def test_path_and_hash_of_a_plugin_are_printed_before_it_is_executed_and_once(
    words: list[str], capfd: pytest.CaptureFixture[str], here: Path
) -> None:
    source = f"import sys\nsys.stderr.write('executed' + chr(10))\n{PART}".replace('"own"', '"announcing"')
    Path("announcing.py").write_text(source)
    assert subprocess.run(process.python("-m", "minigpt", *words), env=process.environment()).returncode == 0
    line = f"plugin: {os.path.realpath('announcing.py')} (SHA-256 {hashlib.sha256(source.encode()).hexdigest()})"
    err = capfd.readouterr().err
    assert err.count("plugin: ") == 1, err
    assert err.startswith(f"{line}\nexecuted\n"), err


def test_an_experiment_outside_a_run_folder_counts_as_named_by_a_person_and_its_plugins_are_shown(
    minigpt: Command, here: Path
) -> None:
    code, _, err = minigpt("show", "own.json", "--vocab-size", "5")
    assert code == 0
    assert f"plugin: {here / 'own.py'} (SHA-256 " in err or (here / "own.py").samefile(Path("own.py"))
    sha256 = plugins.fingerprint(Path("own.py"))
    Path("copy").mkdir()
    shutil.copy("own.py", "copy/own.py")
    edit_json(Path("own.json"), plugins=["copy/own.py"])
    assert f"(SHA-256 {sha256})" in minigpt("check", "own.json", "--only", "shape")[2]


def test_trust_works_without_a_writable_store_which_is_reported_once(
    minigpt: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("no-folder").write_text("")
    monkeypatch.setenv("MINIGPT_CONFIG", str(here / "no-folder"))
    monkeypatch.setenv("MINIGPT_TRUSTED", "")
    assert minigpt("generate", OWN)[0] == 2
    code, _, err = minigpt("generate", OWN, "--trust")
    assert code == 0
    assert err.count("cannot be written") == 1
    code, _, err = minigpt("generate", OWN)
    assert code == 0, "this process and its children trust it"
    assert "cannot be written" not in err
    assert plugins.fingerprint(OWN / "plugins/own.py") in os.environ["MINIGPT_TRUSTED"]
