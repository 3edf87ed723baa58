"""The source that is executed is the source that was hashed."""

from __future__ import annotations

import hashlib
import os
import py_compile
from pathlib import Path

import pytest

from minigpt.errors import MinigptError, PluginError
from minigpt.reading import load_experiment
from minigpt.registry import plugins
from minigpt.registry.plugin_files import read_plugin
from tests.registry.trust.mailed import PART, marking


def test_the_executed_bytes_are_those_that_were_read_even_if_the_file_changed(tmp_path: Path) -> None:
    file = tmp_path / "part.py"
    file.write_text(PART)
    read = read_plugin(file)
    file.write_text(marking(PART, tmp_path / "executed"))
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
        file.write_text(marking("raise RuntimeError", tmp_path / "executed"))
    (cls,) = plugins.load(read).classes.values()
    assert cls(3)(1) == 2
    assert not (tmp_path / "executed").exists()


def test_only_source_is_imported_from_a_plugin_folder(tmp_path: Path) -> None:
    folder, mark = tmp_path / "pack", tmp_path / "executed"
    folder.mkdir()
    (folder / "__init__.py").write_text("from . import evil\n" + PART)
    (tmp_path / "evil.py").write_text(marking("", mark))
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
    Path("plugins/a.py").write_text(marking(PART, here.parent / "executed"))
    Path("plugins/deep.py").write_text("(" * 10_000)
    os.mkfifo("plugins/pipe.py")
    with pytest.raises(MinigptError, match=r"plugins/a\.py would register it"):
        load_experiment({"model": {"norm": "own"}})
    assert not (here.parent / "executed").exists()
