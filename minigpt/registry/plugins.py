"""Plugins: files, and installed packages in the entry-point group `minigpt.plugins`.

Loading a plugin executes it, so it is named by a person or trusted (trust.py). A plugin that fails leaves nothing
registered and nothing half imported.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path
from types import ModuleType

from minigpt.errors import MinigptError, PluginError, UnreadableError
from minigpt.registry import REGISTRY, trust
from minigpt.registry.plugin_files import PluginFiles, forget, module_of, read_plugin
from minigpt.system.files import read_bytes

ENTRY_POINT_GROUP = "minigpt.plugins"
FILE_PACKAGE = "minigpt_plugins"  # plugin files are modules of this package, which exists in memory only

_FOLDER = (
    "a plugin of several files is a folder with an __init__.py that imports the others as its own (from . import helper); "
    "name the folder"
)


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin.

    Attributes:
        path: The file, or the folder of a package.
        sha256: Fingerprint of its source.
        classes: The registered classes, by `family/name`.
        files: The files as they were executed.
    """

    path: Path
    sha256: str
    classes: Mapping[str, type]
    files: PluginFiles

    @property
    def registered(self) -> tuple[str, ...]:
        """The names of the registered classes, as `family/name`."""
        return tuple(sorted(self.classes))


_loaded: dict[str, Plugin] = {}  # by fingerprint: a copy in a run folder is the same plugin as its original
_replaced: dict[str, Plugin] = {}  # by fingerprint: earlier versions of edited files, whose classes may be in use
_failed_packages: dict[str, str] = {}  # entry point to reason, reported when a name is unknown
_installed_asked = False


def load_file(path: Path) -> Plugin:
    """Execute a plugin file, or a folder with an `__init__.py`, that a person named.

    It is trusted from now on.

    Its path and SHA-256 are printed first.

    Raises:
        PluginError: It cannot be read, it raises, or it registers nothing.
    """
    files = read_plugin(path)
    trust.announce([(path, files.sha256)])
    trust.remember(files.sha256, path)
    return load(files)


def load(files: PluginFiles) -> Plugin:
    """Execute a plugin as it was read, once per content.

    The caller has checked that it is trusted (see `trust`).

    An edited file replaces what it registered before.

    Raises:
        PluginError: It raises, or it registers nothing.
    """
    path, digest = files.path, files.sha256
    known = _loaded.get(digest)
    if known and all(_registered().get(label) is cls for label, cls in known.classes.items()):
        return known
    with REGISTRY.undo_on_error():
        outdated = [key for key, plugin in _loaded.items() if plugin.path == path]
        for label in (label for key in outdated for label in _loaded[key].registered):
            REGISTRY.remove(*label.split("/", 1))
        before, places = _registered(), list(sys.path)
        module_name = f"{FILE_PACKAGE}.{path.stem.replace('.', '_')}_{digest[:12]}"
        _execute(files, module_name)
        classes = {label: cls for label, cls in _registered().items() if before.get(label) is not cls}
        if not classes:
            _unload(module_name)
            raise PluginError(f"{path} registers nothing; decorate its components with @register(family, name)")
        _refuse_modules_beside(path, [Path(place) for place in sys.path if place not in places], module_name)
    for key in outdated:
        _replaced[key] = _loaded.pop(key)
    _loaded[digest] = Plugin(path, digest, classes, files)
    return _loaded[digest]


def _execute(files: PluginFiles, module_name: str) -> None:
    path = files.path
    parent = sys.modules.setdefault(FILE_PACKAGE, ModuleType(FILE_PACKAGE))
    parent.__path__ = []
    module = module_of(module_name, files)
    sys.modules[module_name] = module  # dataclasses and get_type_hints look a class's module up by name
    try:
        exec(files.code(), module.__dict__)
    except MinigptError as error:
        _unload(module_name)
        raise PluginError(f"plugin {path}: {error}") from error
    except (Exception, SystemExit) as error:  # a plugin may raise anything: reported as the plugin's error
        _unload(module_name)
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0]
        beside = missing and any((path.parent / place).exists() for place in (f"{missing}.py", f"{missing}/__init__.py"))
        advice = f"; {_FOLDER}" if beside else ""
        raise PluginError(f"plugin {path} failed to load: {_reported(error, path)}{advice}") from error


def _refuse_modules_beside(path: Path, added: Sequence[Path], module_name: str) -> None:
    """Refuse a plugin that put its folder on `sys.path`: a copy of the plugin would not find it."""
    own = path if path.is_dir() else path.parent
    for place in added:
        if place.is_absolute() and place.resolve().is_relative_to(own.resolve()):
            _unload(module_name)
            sys.path.remove(str(place))
            raise PluginError(
                f"plugin {path} imports modules from {place}, which its copy in a run would not find; {_FOLDER}"
            )


def _unload(module_name: str) -> None:
    for name in [name for name in sys.modules if name == module_name or name.startswith(f"{module_name}.")]:
        del sys.modules[name]
    forget(module_name)


def _reported(error: BaseException, path: Path) -> str:
    """`ValueError: message (line 12)`, with the last line of the traceback that is in the plugin."""
    line = error.lineno if isinstance(error, SyntaxError) else _last_line(error, path)
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {message}" + (f" (line {line})" if line else "")


def _last_line(error: BaseException, path: Path) -> int | None:
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename.startswith(str(path))), None)


def last_place(error: BaseException) -> str | None:
    """The last line of a loaded plugin in a traceback, as `plugin FILE, line N`; None if there is none."""
    places = ((plugin.path, _last_line(error, plugin.path)) for plugin in _loaded.values())
    return next((f"plugin {path}, line {line}" for path, line in places if line), None)


def load_installed() -> None:
    """Load every installed package of the entry-point group, once.

    A package that fails is not fatal: experiments that do not use it still run. An unknown name reports the reason.
    """
    global _installed_asked
    if _installed_asked:
        return
    _installed_asked = True
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            with REGISTRY.undo_on_error():
                point.load()
        except (Exception, SystemExit) as error:  # a package may raise anything
            _failed_packages[point.name] = f"{type(error).__name__}: {error}"


def plugin_of(cls: type) -> Plugin | None:
    """The plugin that defines a class; None if no plugin does."""
    module = cls.__module__.partition(f"{FILE_PACKAGE}.")[2].partition(".")[0]
    known = {**_replaced, **_loaded}
    return next((plugin for digest, plugin in known.items() if module.endswith(f"_{digest[:12]}")), None)


def distributions_of(module: str) -> list[str]:
    """The installed distributions that have a top-level module of this name."""
    return list(_distributions(tuple(sys.path)).get(module, []))


@functools.cache
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """The distributions of every module on the path.

    Takes 0.1 s, because it reads the file list of each distribution.
    """
    return packages_distributions()


def is_copy_of(file: str, plugin: Plugin) -> bool:
    """Whether a file has the content of a loaded plugin, regardless of its path."""
    return fingerprint(Path(file)) == plugin.sha256


def write_copy(path: Path, target: Path) -> None:
    """Write a copy of a plugin as it was executed.

    Raises:
        PluginError: The file was edited since.
        OSError: The copy cannot be written.
    """
    loaded = _loaded.get(fingerprint(path))
    if loaded is None:
        raise PluginError(f"{path} changed since it was loaded: load the experiment again")
    loaded.files.write(target)


def fingerprint(path: Path) -> str:
    """SHA-256 of a plugin file, or of all files of a plugin folder with their names. Raises PluginError."""
    return read_plugin(path).sha256


def source_fingerprint(path: Path) -> str:
    """SHA-256 of a source file, or of the Python files of an installed package with their names."""
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.py")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(path).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _registered() -> dict[str, type]:
    entries = (entry for family in REGISTRY.families() for entry in REGISTRY.entries(family.name))
    return {f"{entry.family}/{entry.name}": entry.cls for entry in entries}


# ------------------------------------------------------------------------------------- what to do about unknown names


def _failed_package_hint(family: str, name: str) -> str | None:
    if not _failed_packages:
        return None
    reasons = "; ".join(f'"{point}" ({reason})' for point, reason in _failed_packages.items())
    return f"these installed plugins failed to load: {reasons}"


def _plugin_file_hint(family: str, name: str) -> str | None:
    """The file in ./plugins that would register the name, found by reading and never by executing it."""
    for file in sorted(Path("plugins").glob("*.py")) if Path("plugins").is_dir() else []:
        if (family, name) in set(_registrations(file)):
            return f'{file} would register it: add --plugin {file}, or name it in "plugins"'
    return None


_MOST_READ = 1 << 20  # largest file, in bytes, that is searched for registrations


def _registrations(file: Path) -> Iterator[tuple[str, str]]:
    """(family, name) of each `@register("family", "name")` in a source file."""
    try:
        tree = ast.parse(read_bytes(file, _MOST_READ))
    except (SyntaxError, ValueError, UnreadableError, RecursionError, MemoryError):
        return  # a file that cannot be read registers nothing
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for call in node.decorator_list:
                match call:
                    case ast.Call(
                        func=ast.Name(id="register") | ast.Attribute(attr="register"),
                        args=[ast.Constant(value=str(family)), ast.Constant(value=str(name))],
                    ):
                        yield family, name


REGISTRY.unknown_hints += [_failed_package_hint, _plugin_file_hint]
