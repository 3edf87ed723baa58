"""Trust: a run folder's plugins run only if a person allowed it, and exactly the hashed bytes are executed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import py_compile
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import minigpt as package
from minigpt.errors import MinigptError, PluginError, TrustError
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, plugins, trust
from minigpt.registry.plugin_files import read_plugin
from minigpt.run import RunFolder
from minigpt.system import process
from minigpt.training import PlainObserver, train
from tests.conftest import Command
from tests.forging import forge

TINY = {"d_model": 16, "n_heads": 2, "n_layers": 1, "block_size": 16}
TEXT = "ROMEO: It was the lark, The herald of the morn.\n" * 40
PART = '''
from minigpt import register
from minigpt.contracts import Norm

@register("norm", "own")
class Own(Norm):
    """Nothing is divided."""
    def __init__(self, width: int):
        super().__init__()
    def forward(self, x):
        return x
'''
NOTHING_BUT_A_MARK = PART.replace('"own"', '"evil"')


def _marking(code: str, mark: Path) -> str:
    return f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n{code}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs: `plain` has only shipped components, `own` has one of a plugin."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "corpus.txt").write_text(TEXT)
    (folder / "own.py").write_text(PART)
    training = {"max_iters": 2, "eval_interval": 2, "batch_size": 2, "compile": False, "precision": "fp32"}
    document = {"data": {"name": "text", "paths": ["corpus.txt"]}, "model": TINY, "training": training}
    document["sampling"] = {"max_new_tokens": 4}
    (folder / "plain.json").write_text(json.dumps(document))
    own = {"extends": "plain.json", "model": {"norm": "own"}, "plugins": ["own.py"]}
    (folder / "own.json").write_text(json.dumps(own))
    with REGISTRY.temporarily():
        for name in ("plain", "own"):
            experiment = load_experiment(folder / f"{name}.json")
            train(experiment, out=folder / "runs", device="cpu", observer=PlainObserver(io.StringIO()))
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of the trained runs, as mailed to a person who trusts none of its plugins."""
    folder = tmp_path / "here"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MINIGPT_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("MINIGPT_TRUSTED", raising=False)
    return folder


OWN, PLAIN = Path("runs/own/seed-1337"), Path("runs/plain/seed-1337")


def edit_json(file: Path, **changes: object) -> None:
    forge(file, {**json.loads(file.read_text()), **changes})


# ------------------------------------------------------------------------------------ nothing is executed unless asked


def _its_own(run: Path, mark: Path) -> None:
    (run / "plugins").mkdir(exist_ok=True)
    (run / "plugins/own.py").write_text(_marking(PART, mark))
    edit_json(run / "experiment.json", plugins=["plugins/own.py"])


def _unused(run: Path, mark: Path) -> None:
    (run / "plugins").mkdir(exist_ok=True)
    (run / "plugins/evil.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    edit_json(run / "experiment.json", plugins=["plugins/evil.py"])


def _absolute(run: Path, mark: Path) -> None:
    outside = mark.with_name("evil.py")
    outside.write_text(_marking(NOTHING_BUT_A_MARK, mark))
    edit_json(run / "experiment.json", plugins=[str(outside)])


def _outside(run: Path, mark: Path) -> None:
    Path("evil.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    edit_json(run / "experiment.json", plugins=["../../../evil.py"])


def _link(run: Path, mark: Path) -> None:
    Path("evil.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    (run / "plugins").mkdir(exist_ok=True)
    (run / "plugins/evil.py").symlink_to(Path("evil.py").absolute())
    edit_json(run / "experiment.json", plugins=["plugins/evil.py"])


def _folder(run: Path, mark: Path) -> None:
    (run / "plugins/pack").mkdir(parents=True, exist_ok=True)
    (run / "plugins/pack/__init__.py").write_text("from . import part\n")
    (run / "plugins/pack/part.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    edit_json(run / "experiment.json", plugins=["plugins/pack"])


def _extends(run: Path, mark: Path) -> None:
    (run / "evil.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    (run / "parent.json").write_text(json.dumps({"plugins": ["evil.py"]}))
    edit_json(run / "experiment.json", extends="parent.json", plugins=[])


def _extends_outside(run: Path, mark: Path) -> None:
    Path("evil.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    Path("parent.json").write_text(json.dumps({"plugins": ["evil.py"]}))
    edit_json(run / "experiment.json", extends="../../../parent.json", plugins=[])


def _after_a_known_one(run: Path, mark: Path) -> None:
    Path("known.py").write_text(_marking(PART.replace('"own"', '"known"'), mark))
    trust.remember(plugins.fingerprint(Path("known.py")), Path("known.py"))
    (run / "plugins").mkdir(exist_ok=True)
    (run / "plugins/evil.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    edit_json(run / "experiment.json", plugins=["../../../known.py", "plugins/evil.py"])


HOSTILE: dict[str, tuple[Callable[[Path, Path], None], Path]] = {
    "a component that its model uses": (_its_own, OWN),
    "a component that its model does not use": (_unused, PLAIN),
    "an absolute path": (_absolute, PLAIN),
    "a path outside the run folder": (_outside, PLAIN),
    "a link": (_link, PLAIN),
    "a folder": (_folder, PLAIN),
    "a file that it extends": (_extends, PLAIN),
    "a file outside the run folder that it extends": (_extends_outside, PLAIN),
    "a plugin after a trusted one": (_after_a_known_one, PLAIN),
}

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
    _unused(begun, mark)
    code, _, err = minigpt("compare", "plain.json", "variant.json", "--seeds", "1", "--plan")
    assert code == 0, err
    assert not mark.exists()


def test_plugins_of_a_mailed_comparison_are_not_executed_either(minigpt: Command, here: Path) -> None:
    mark = here.parent / "executed"
    Path("comparisons/x/variants").mkdir(parents=True)
    Path("comparisons/x/comparison.json").write_text("{}")
    Path("comparisons/x/evil.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    Path("comparisons/x/variants/a.json").write_text(json.dumps({"plugins": ["../evil.py"]}))
    assert "not executed: " in minigpt("show", "comparisons/x/variants/a.json")[2]
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
    Path("evil.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    (run / "experiment.json").write_text(json.dumps({"plugins": [str(here / "evil.py")]}))
    file = run / SPARSE[sparse](run)
    for words in (["show"], ["diff", "plain.json"], ["check", "--quick"], ["compare", "plain.json", "--plan"]):
        assert minigpt(words[0], file, *words[1:])[0] in ((0, 2) if words[0] in ("show", "diff") else (2,))
        assert not mark.exists(), words
    with pytest.raises(TrustError, match="not executed: "):
        package.load_experiment(file)
    assert not mark.exists()


def test_a_run_folder_is_checked_as_a_run_and_never_executed_as_a_plugin(minigpt: Command, here: Path) -> None:
    mark = here.parent / "executed"
    (PLAIN / "__init__.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    (OWN / "__init__.py").write_text(_marking(NOTHING_BUT_A_MARK, mark))
    some = ("--only", "shape")
    code, out, err = minigpt("check", PLAIN, *some)
    assert code == 0, err
    assert str(PLAIN) in out
    assert minigpt("check", PLAIN, *some, "--no-plugins")[0] == 0
    code, _, err = minigpt("check", OWN, *some)
    assert (code, "not executed: " in err) == (2, True)
    assert minigpt("check", OWN, "norm/none", *some, "--trust", "--jobs", "2")[0] == 0
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
    _its_own(OWN, mark)
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
    _its_own(OWN, mark)
    call(OWN)
    assert mark.exists()


# --------------------------------------------------------------------------------------------------- remembered plugins


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
    _unused(PLAIN, mark)
    code, _, err = minigpt("show", PLAIN, "--plugin", "own.py")
    assert code == 2
    assert "not executed: " in err
    assert not mark.exists()


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


# ---------------------------------------------------------------------------------- the hashed bytes are executed


def test_the_executed_bytes_are_those_that_were_read_even_if_the_file_changed(tmp_path: Path) -> None:
    file = tmp_path / "part.py"
    file.write_text(PART)
    read = read_plugin(file)
    file.write_text(_marking(PART, tmp_path / "executed"))
    assert plugins.load(read).sha256 == hashlib.sha256(PART.encode()).hexdigest()
    assert not (tmp_path / "executed").exists()
    with pytest.raises(PluginError, match="changed since it was loaded"):
        plugins.write_copy(file, tmp_path / "copy.py")


def test_modules_of_a_folder_that_are_imported_later_are_those_that_were_read(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "from .deep import name\n"
        + PART.replace('"own"', "name").replace("return x", "from .late import late\n        return late(x)")
    )
    (folder / "deep/__init__.py").write_text("from .names import name\n")
    (folder / "deep/names.py").write_text("name = 'own'\n")
    (folder / "late.py").write_text("late = lambda x: x + 1\n")
    read = read_plugin(folder)
    for file in folder.rglob("*.py"):
        file.write_text(_marking("raise RuntimeError", tmp_path / "executed"))
    (cls,) = plugins.load(read).classes.values()
    assert cls(3)(1) == 2
    assert not (tmp_path / "executed").exists()


def test_only_source_is_imported_from_a_plugin_folder(tmp_path: Path) -> None:
    folder, mark = tmp_path / "pack", tmp_path / "executed"
    folder.mkdir()
    (folder / "__init__.py").write_text("from . import evil\n" + PART)
    (tmp_path / "evil.py").write_text(_marking("", mark))
    py_compile.compile(str(tmp_path / "evil.py"), cfile=str(folder / "evil.pyc"))
    with pytest.raises(PluginError, match=r"evil\.pyc has no source, and only source is imported"):
        plugins.load_file(folder)
    assert not mark.exists()


def test_everything_in_a_plugin_folder_is_in_its_fingerprint(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text(PART)
    seen = {plugins.fingerprint(folder)}
    for name in ("part.so", "part.pyc", "data/table.txt", "more.py", "code.zip"):
        (folder / name).write_text("1")
        seen.add(plugins.fingerprint(folder))
        (folder / name).write_text("2")
        seen.add(plugins.fingerprint(folder))
    assert len(seen) == 11
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/part.cpython-311.pyc").write_text("a cache is not part of the plugin")
    (folder / ".hidden").write_text("nor is a hidden file")
    assert plugins.fingerprint(folder) in seen
    plugins.load_file(folder)
    plugins.write_copy(folder, tmp_path / "copy")
    assert plugins.fingerprint(tmp_path / "copy") == plugins.fingerprint(folder)
    assert not (tmp_path / "copy/.hidden").exists()


@pytest.mark.parametrize("kind", ["pipe", "large", "broken link"])
def test_a_plugin_that_cannot_be_read_is_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "__init__.py").write_text(PART)
    match kind:
        case "pipe":
            os.mkfifo(folder / "pipe.py")
        case "large":
            with (folder / "large.bin").open("wb") as file:
                file.truncate(1 << 40)
        case _:
            (folder / "link.py").symlink_to("nowhere")
    with pytest.raises(PluginError, match="plugin .*pack: "):
        plugins.load_file(folder)


def test_a_hint_about_files_in_the_plugins_folder_only_reads_them(here: Path) -> None:
    """An unknown name is searched for in ./plugins, whose files may come from another person."""
    Path("plugins").mkdir()
    Path("plugins/a.py").write_text(_marking(PART, here.parent / "executed"))
    Path("plugins/deep.py").write_text("(" * 10_000)
    os.mkfifo("plugins/pipe.py")
    with pytest.raises(MinigptError, match=r"plugins/a\.py would register it"):
        load_experiment({"model": {"norm": "own"}})
    assert not (here.parent / "executed").exists()
