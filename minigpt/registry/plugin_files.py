"""A plugin's files, read once: the executed bytes are exactly the fingerprinted bytes."""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, SourceFileLoader
from importlib.readers import FileReader
from pathlib import Path, PurePosixPath
from types import CodeType, ModuleType

from minigpt.errors import PluginError, UnreadableError
from minigpt.system.files import read_bytes

_MOST_BYTES, _MOST_FILES = 1 << 28, 10_000
_START = "__init__.py"


@dataclass(frozen=True)
class PluginFiles:
    """A plugin as it was when it was read.

    Attributes:
        path: The file, or the folder of a package.
        files: Contents by path below the folder; a single file is under its own name.
        is_folder: Whether it is a package.
    """

    path: Path
    files: Mapping[str, bytes]
    is_folder: bool

    @functools.cached_property
    def sha256(self) -> str:
        """Fingerprint of the file, or of all files of the folder with their names."""
        if not self.is_folder:
            return hashlib.sha256(self.files[self.path.name]).hexdigest()
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def write(self, target: Path) -> None:
        """Write a copy, which has the same fingerprint. Raises OSError."""
        for name, content in self.files.items():
            file = target / name if self.is_folder else target
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def code(self) -> CodeType:
        """Compiled code of the file, or of the package's `__init__.py`."""
        name = _START if self.is_folder else self.path.name
        return compile(self.files[name], str(self.path / name if self.is_folder else self.path), "exec", dont_inherit=True)

    def source(self, words: Sequence[str]) -> tuple[str, bytes] | None:
        """The file of a module, and its source; None if there is none.

        Args:
            words: The module's name below the plugin's, `("norms", "rms")` for norms/rms.py; empty for the plugin itself.
        """
        if not words and not self.is_folder:
            return self.path.name, self.files[self.path.name]
        stem = "/".join(words)
        for name in (f"{stem}/{_START}".lstrip("/"), f"{stem}.py"):
            if name in self.files:
                return name, self.files[name]
        if any(name.startswith(f"{stem}/") for name in self.files):
            return f"{stem}/{_START}", b""  # a folder without `__init__.py` is a package too
        return None

    def compiled(self, words: Sequence[str]) -> str | None:
        """A file without source that Python would take for that module."""
        suffixes = (".pyc", *EXTENSION_SUFFIXES)
        return next((name for name in self.files if name in ["/".join(words) + suffix for suffix in suffixes]), None)


def read_plugin(path: Path) -> PluginFiles:
    """Read all of a plugin file, or of a folder with an `__init__.py`.

    Hidden files, `__pycache__` and links to folders are ignored: neither fingerprinted nor imported nor copied.

    Raises:
        PluginError: There is no plugin, or it cannot be read.
    """
    is_folder = os.path.isdir(path)
    if not os.path.isfile(path / _START if is_folder else path):
        what = f"the folder {path} has no {_START}" if is_folder else f"there is no plugin file {path}"
        raise PluginError(what)
    files: dict[str, bytes] = {}
    left = _MOST_BYTES
    try:
        for file in _below(path) if is_folder else [path]:
            content = read_bytes(file, left)
            left -= len(content)
            files[file.relative_to(path).as_posix() if is_folder else file.name] = content
    except UnreadableError as error:
        raise PluginError(f"plugin {path}: {error}") from error
    return PluginFiles(path, files, is_folder)


def _below(folder: Path) -> list[Path]:
    files: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        files += [Path(place) / name for name in names if not name.startswith(".")]
        if len(files) > _MOST_FILES:
            raise PluginError(f"plugin {folder}: more than {_MOST_FILES:,} files; name a smaller folder")
    return files


class _FromMemory(MetaPathFinder, ExecutionLoader):
    """Imports plugins, and the modules inside of plugin folders, from the bytes that were read."""

    def __init__(self) -> None:
        self.plugins: dict[str, PluginFiles] = {}

    def _place(self, fullname: str) -> tuple[PluginFiles, list[str]] | None:
        words = fullname.split(".")
        plugin = self.plugins.get(".".join(words[:2]))
        return None if plugin is None else (plugin, words[2:])

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        place = self._place(fullname)
        if place is None:
            return None
        plugin, words = place
        if plugin.source(words) is not None:
            return importlib.util.spec_from_loader(fullname, self, is_package=self.is_package(fullname))
        compiled = plugin.compiled(words)
        if compiled:
            raise ImportError(f"{compiled} has no source, and only source is imported from a plugin", name=fullname)
        raise ModuleNotFoundError(f"No module named '{fullname}'", name=fullname)

    def _file(self, fullname: str) -> tuple[str, bytes]:
        place = self._place(fullname)
        source = None if place is None else place[0].source(place[1])
        if place is None or source is None:
            raise ImportError(f"no plugin {fullname}", name=fullname)
        plugin, (name, content) = place[0], source
        return str(plugin.path / name if plugin.is_folder else plugin.path), content

    def is_package(self, fullname: str) -> bool:
        return PurePosixPath(self._file(fullname)[0]).name == _START

    def get_filename(self, fullname: str) -> str:
        return self._file(fullname)[0]

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._file(fullname)[1])

    def get_data(self, path: str) -> bytes:
        """A data file of a plugin folder, for `pkgutil.get_data`."""
        for plugin in self.plugins.values():
            if plugin.is_folder and Path(path).is_relative_to(plugin.path):
                content = plugin.files.get(Path(path).relative_to(plugin.path).as_posix())
                if content is not None:
                    return content
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def get_resource_reader(self, fullname: str) -> FileReader:
        """For `importlib.resources`: the files beside a module, read when they are asked for."""
        return FileReader(SourceFileLoader(fullname, self.get_filename(fullname)))

    def get_code(self, fullname: str) -> CodeType:
        file, content = self._file(fullname)
        return compile(content, file, "exec", dont_inherit=True)


_FROM_MEMORY = _FromMemory()


def module_of(name: str, plugin: PluginFiles) -> ModuleType:
    """A plugin's module, not yet executed.

    Its submodules are imported from the same bytes, until `forget`.
    """
    if _FROM_MEMORY not in sys.meta_path:
        sys.meta_path.insert(0, _FROM_MEMORY)
    _FROM_MEMORY.plugins[name] = plugin
    spec = _FROM_MEMORY.find_spec(name)
    assert spec is not None
    return importlib.util.module_from_spec(spec)


def forget(name: str) -> None:
    """Stop importing a plugin's modules from memory."""
    _FROM_MEMORY.plugins.pop(name, None)
