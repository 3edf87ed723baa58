"""Loading plugins: files, folders and installed packages, edits, copies and errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.errors import ExperimentError, PluginError
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, plugins

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from minigpt import register
from minigpt.contracts import Norm

@dataclass
class Helper:
    x: int = {number}

@register("norm", "{name}")
class Mine(Norm):
    '''Mine. It divides by nothing.'''
    number = {number}
    def __init__(self, width: int, *, eps: float = 1.0):
        super().__init__()
    def forward(self, x):
        return x
"""


def write(path: Path, name: str = "mine", number: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SOURCE.format(name=name, number=number))
    return path


def test_a_file_registers_its_decorated_classes(tmp_path: Path) -> None:
    plugin = plugins.load_file(write(tmp_path / "mine.py"))
    assert plugin.registered == ("norm/mine",)
    assert REGISTRY.entry("norm", "mine").file == tmp_path / "mine.py"
    assert plugins.load_file(tmp_path / "mine.py") is plugin, "once per content"


def test_a_copy_is_the_same_plugin(tmp_path: Path) -> None:
    first = plugins.load_file(write(tmp_path / "mine.py"))
    assert plugins.load_file(write(tmp_path / "copy" / "mine.py")) is first


def test_an_edited_file_replaces_its_earlier_components(tmp_path: Path) -> None:
    plugins.load_file(write(tmp_path / "mine.py", number=1))
    plugins.load_file(write(tmp_path / "mine.py", number=2))
    assert REGISTRY.entry("norm", "mine").cls.number == 2


def test_a_folder_is_a_package(tmp_path: Path) -> None:
    write(tmp_path / "pack" / "norms.py", name="packed")
    (tmp_path / "pack" / "__init__.py").write_text("from . import norms\n")
    assert plugins.load_file(tmp_path / "pack").registered == ("norm/packed",)
    before = plugins.fingerprint(tmp_path / "pack")
    write(tmp_path / "pack" / "norms.py", name="packed", number=5)
    assert plugins.fingerprint(tmp_path / "pack") != before


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("raise RuntimeError('at the end')", r"plugin .*bad.py failed to load: RuntimeError: at the end \(line \d+\)"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def broken(:", r"SyntaxError: .*\(line \d+\)"),
        ("raise SystemExit(0)", "SystemExit"),
        ("register('norm', 'rmsnorm')(Mine)", 'norm "rmsnorm" is registered twice'),
        ("register('norm', 'x')(Helper)", "norm components inherit from"),
    ],
)
def test_a_plugin_that_fails_leaves_nothing_registered(tmp_path: Path, tail: str, message: str) -> None:
    file = write(tmp_path / "bad.py")
    file.write_text(file.read_text() + tail + "\n")
    modules = set(sys.modules)
    with pytest.raises(PluginError, match=message):
        plugins.load_file(file)
    assert "mine" not in [entry.name for entry in REGISTRY.entries("norm")]
    assert not [name for name in set(sys.modules) - modules if name.startswith("minigpt_plugins.")]


def test_a_folder_reads_its_data_files(tmp_path: Path) -> None:
    folder = tmp_path / "data_reader"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner/table.txt").write_text("seven")
    (folder / "__init__.py").write_text(
        SOURCE.format(number=1, name="reads") + "import importlib.resources, pkgutil\n"
        "PACKED = pkgutil.get_data(__name__, 'inner/table.txt')\n"
        "READ = (importlib.resources.files(__name__) / 'inner/table.txt').read_text()\n"
        "try:\n    pkgutil.get_data(__name__, 'missing.txt')\nexcept FileNotFoundError as error:\n    MISSING = error\n"
    )
    plugins.load_file(folder)
    (cls,) = [entry.cls for entry in REGISTRY.entries("norm") if entry.name == "reads"]
    module = sys.modules[cls.__module__]
    assert (module.PACKED, module.READ) == (b"seven", "seven")
    assert module.MISSING.filename == str(folder / "missing.txt")


def test_modules_beside_a_plugin_file_need_a_folder(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py")
    (tmp_path / "beside_mine.py").write_text("X = 1\n")
    source = file.read_text().replace("from dataclasses", "import beside_mine\nfrom dataclasses")
    file.write_text(source)
    with pytest.raises(
        PluginError, match=r"No module named 'beside_mine' \(line 3\); a plugin of several files is a folder"
    ):
        plugins.load_file(file)
    insert = "import pathlib, sys\nsys.path.insert(0, str(pathlib.Path(__file__).parent))\nimport beside_mine"
    file.write_text(source.replace("import beside_mine", insert))
    before = list(sys.path)
    with pytest.raises(PluginError, match="which its copy in a run would not find; a plugin of several files is a folder"):
        plugins.load_file(file)
    assert sys.path == before
    assert not REGISTRY.has("norm", "mine")
    folder = tmp_path / "mine"
    write(folder / "__init__.py").write_text(source.replace("import beside_mine", "from . import beside_mine"))
    (tmp_path / "beside_mine.py").rename(folder / "beside_mine.py")
    assert plugins.load_file(folder).registered == ("norm/mine",)


def test_a_failed_edit_keeps_the_earlier_version(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py")
    plugins.load_file(file)
    file.write_text("raise ValueError('oops')")
    with pytest.raises(PluginError):
        plugins.load_file(file)
    assert REGISTRY.entry("norm", "mine").cls.number == 1
    write(file, number=1)
    plugins.load_file(file)


def test_a_file_that_registers_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(PluginError, match=r"registers nothing; decorate its components with @register"):
        plugins.load_file(tmp_path / "empty.py")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"there is no plugin file .*nowhere.py"):
        plugins.load_file(tmp_path / "nowhere.py")


def test_a_new_version_of_a_plugin_file_replaces_the_old_one_and_earlier_experiments_keep_theirs(tmp_path: Path) -> None:
    ours, copy = write(tmp_path / "mine.py", number=1), write(tmp_path / "runs" / "plugins" / "mine.py", number=7)
    settings = {"model": {"norm": "mine"}}
    first = load_experiment(settings, plugin_files=[ours])
    second = load_experiment(settings, plugin_files=[copy])
    third = load_experiment(settings, plugin_files=[ours])
    assert [e.model.norm.cls.number for e in (first, second, third)] == [1, 7, 1]
    assert [e.model.norm.build(4).number for e in (first, second, third)] == [1, 7, 1]


def test_a_name_of_another_plugin_file_is_not_taken(tmp_path: Path) -> None:
    plugins.load_file(write(tmp_path / "mine.py"))
    with pytest.raises(PluginError, match='norm "mine" is registered twice'):
        plugins.load_file(write(tmp_path / "theirs.py", number=2))


def test_old_code_is_never_loaded_from_a_cache(tmp_path: Path) -> None:
    code = """
import sys; from pathlib import Path; sys.dont_write_bytecode = False
from minigpt.registry import REGISTRY, plugins; import minigpt.contracts
file = Path("mine.py"); text = file.read_text()
for number in "123":
    file.write_text(text.replace("number = 1", f"number = {number}")); plugins.load_file(file)
    print(REGISTRY.entry("norm", "mine").cls.number, end=" ")
"""
    write(tmp_path / "mine.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.stdout == "1 2 3 ", answer.stderr


def test_two_packages_do_not_take_each_others_names(tmp_path: Path) -> None:
    write(tmp_path / "one" / "__init__.py", number=1)
    write(tmp_path / "two" / "__init__.py", number=2)
    plugins.load_file(tmp_path / "one")
    with pytest.raises(PluginError, match='norm "mine" is registered twice'):
        plugins.load_file(tmp_path / "two")


def test_a_run_opens_even_if_the_original_plugin_was_edited_or_removed(tmp_path: Path) -> None:
    original, copy = write(tmp_path / "mine.py"), write(tmp_path / "run" / "mine.py")
    load_experiment({"model": {"norm": "mine"}}, plugin_files=[original])
    original.write_text(original.read_text() + "# edited\n")
    assert load_experiment({"model": {"norm": "mine"}}, plugin_files=[copy]).plugins == [str(copy)]
    original.unlink()
    assert load_experiment({"model": {"norm": "mine"}}, plugin_files=[copy]).plugins == [str(copy)]


def test_a_notebook_cell_can_be_run_again() -> None:
    cell = SOURCE.format(name="mine", number=1)
    exec(cell.replace("from __future__ import annotations", ""), {"__name__": "__main__"})
    exec(
        cell.replace("number = 1", "number = 2").replace("from __future__ import annotations", ""), {"__name__": "__main__"}
    )
    assert REGISTRY.entry("norm", "mine").cls.number == 2


def test_a_removed_component_can_be_registered_again(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py")
    with REGISTRY.temporarily():
        plugins.load_file(file)
    assert not REGISTRY.has("norm", "mine")
    plugins.load_file(file)
    assert REGISTRY.has("norm", "mine")


def test_a_plugin_that_is_used_without_being_named_is_added_to_the_experiment(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py")
    plugins.load_file(file)
    assert load_experiment({"model": {"norm": "mine"}}).plugins == [str(file)]
    assert load_experiment({"model": {"norm": "rmsnorm"}}).plugins == []
    with pytest.raises(PluginError, match=r"refused \(--no-plugins\), but it uses .*mine.py"):
        load_experiment({"model": {"norm": "mine"}}, allow_plugins=False)


@pytest.mark.parametrize("body", ["1 / 0", "self.x = torch.ones(2).tolist()", "self.w = torch.nn.Parametr(1)"])
def test_a_constructor_that_fails_is_reported_with_its_line(tmp_path: Path, body: str) -> None:
    file = write(tmp_path / "mine.py")
    file.write_text(
        "import torch\n" + file.read_text().replace("super().__init__()", f"super().__init__(); {body}").lstrip()
    )
    file.write_text(file.read_text().replace("from __future__ import annotations\n", ""))
    with pytest.raises(ExperimentError, match=r"model.norm: mine: \w+Error: .*mine.py:\d+\)"):
        load_experiment({"model": {"norm": "mine"}}, plugin_files=[file])


def test_experiments_name_plugins_relative_to_themselves(tmp_path: Path) -> None:
    write(tmp_path / "parts" / "mine.py")
    (tmp_path / "base.json").write_text('{"plugins": ["parts/mine.py"], "model": {"norm": {"name": "mine", "eps": 2.0}}}')
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.json").write_text('{"extends": "../base.json", "model": {"norm": {"eps": 3.0}}}')
    experiment = load_experiment(tmp_path / "deep" / "x.json")
    assert experiment.model.norm.params["eps"] == 3.0
    assert experiment.plugins == [str(tmp_path / "parts" / "mine.py")]


def test_plugins_can_be_refused(tmp_path: Path) -> None:
    write(tmp_path / "mine.py")
    (tmp_path / "x.json").write_text('{"plugins": ["mine.py"]}')
    with pytest.raises(PluginError, match=r"plugins are refused \(--no-plugins\), but it names .*mine.py"):
        load_experiment(tmp_path / "x.json", allow_plugins=False)
    assert "mine" not in [entry.name for entry in REGISTRY.entries("norm")]


def test_the_error_for_an_unknown_name_suggests_the_plugin_file_that_would_register_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "plugins" / "mine.py").write_text(
        SOURCE.format(name="mine", number=1) + "\nraise RuntimeError('executed')\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExperimentError, match=r"plugins/mine.py would register it: add --plugin plugins/mine.py"):
        load_experiment({"model": {"norm": "mine"}})


class _EntryPoint:
    def __init__(self, name: str, file: Path):
        self.name, self.file = name, file

    def load(self) -> None:
        exec(compile(self.file.read_text(), str(self.file), "exec"), {"__name__": "somebodys_package"})


def test_installed_packages_register_and_a_failed_one_is_reported_for_an_unknown_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.py").write_text("raise RuntimeError('broken release')")
    (tmp_path / "good.py").write_text(
        "from minigpt import register\nfrom minigpt.components.norm.rmsnorm import RMSNorm\nregister('norm', 'theirs')(RMSNorm)"
    )
    points = [_EntryPoint("bad", tmp_path / "bad.py"), _EntryPoint("good", tmp_path / "good.py")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "minigpt.plugins" else [])
    monkeypatch.setattr(plugins, "_installed_asked", False)
    monkeypatch.setattr(plugins, "_failed_packages", {})
    assert load_experiment({"model": {"norm": "theirs"}}).model.norm.name == "theirs"
    with pytest.raises(ExperimentError, match=r'installed plugins failed to load: "bad" \(RuntimeError: broken release\)'):
        load_experiment({"model": {"norm": "unknown"}})
