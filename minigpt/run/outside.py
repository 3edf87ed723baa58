"""Find the modules that a part from outside this package imports, because its numbers depend on them too.

Imports are read from the text, and no code is executed. A module is counted by its content, wherever it is: beside the
part, in the part's distribution, in a namespace package, or in a folder that the part put on `sys.path`. A module that
another distribution has installed is counted by the distribution's version. The standard library, torch and numpy are
left out, because a run records their versions.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from minigpt.registry import plugins
from minigpt.run.imports import imports_in

NOT_FOLLOWED = frozenset({"minigpt", plugins.FILE_PACKAGE, "torch", "numpy"})
"""Top-level modules that are counted in another way."""

_STANDARD = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


@dataclass(frozen=True)
class Followed:
    """The modules that references from outside lead to.

    Attributes:
        files: The content of each module, by its dotted name.
        places: The file of each module, by its dotted name.
        versions: Other distributions, as `name version`.
        references: All dotted names that the modules use, including names of this package.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    versions: set[str] = field(default_factory=set)
    references: set[str] = field(default_factory=set)


def follow(references: Iterable[str], *, own: Collection[str] = (), counted: Collection[str] = ()) -> Followed:
    """The modules that dotted names lead to, with the packages above them and everything that they import.

    Args:
        references: Dotted names.
        own: Distributions whose modules are counted by content although they are installed.
        counted: Top-level modules that are counted already.
    """
    followed, pending = Followed(), list(references)
    while pending:
        reference = pending.pop()
        top = reference.partition(".")[0]
        if reference in followed.references:
            continue
        followed.references.add(reference)
        if top in NOT_FOLLOWED or top in counted or _is_standard(top):
            continue
        for module in _along(reference):
            installed = _installed_by(module, own)
            if installed:
                followed.versions.add(installed)
                break
            if module.file is None or module.name in followed.files:
                continue
            followed.files[module.name] = module.file.read_bytes()
            followed.places[module.name] = module.file
            pending += module.imports(followed.files[module.name])
    return followed


def _is_standard(top: str) -> bool:
    """Whether a name leads to the standard library: a file of that name in an earlier folder of `sys.path` hides it."""
    if top not in sys.stdlib_module_names:
        return False
    module = _find(top, None)
    file = None if module is None or module.file is None else module.file.resolve()
    return file is None or ("site-packages" not in file.parts and any(file.is_relative_to(place) for place in _STANDARD))


@dataclass(frozen=True)
class _Module:
    """A module as the import system finds it.

    Attributes:
        name: Its dotted name.
        file: Its file; None for a namespace package or a built-in module.
        folders: The folders in which its submodules are searched; None if it is not a package.
    """

    name: str
    file: Path | None
    folders: Sequence[str] | None

    def imports(self, text: bytes) -> Iterable[str]:
        """The dotted names that its text uses."""
        is_source = self.file is not None and self.file.suffix == ".py"
        return imports_in(text, self.name, is_package=self.folders is not None).used if is_source else ()


def _along(reference: str) -> Iterator[_Module]:
    """The modules on the path of a dotted name, up to the first word that is not a module."""
    words, folders = reference.split("."), None
    for length in range(1, len(words) + 1):
        module = _find(".".join(words[:length]), folders)
        if module is None:
            return
        yield module
        if module.folders is None:
            return
        folders = module.folders


def _find(name: str, folders: Sequence[str] | None) -> _Module | None:
    """The module that an import would find; it is not imported here."""
    module = sys.modules.get(name)
    if module is not None:
        return _Module(name, _file(getattr(module, "__file__", None)), _folders(getattr(module, "__path__", None)))
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, folders)
        except (ImportError, AttributeError, ValueError):  # a finder of an old kind, or one that refuses the name
            continue
        if spec is not None:
            return _Module(name, _file(spec.origin), _folders(spec.submodule_search_locations))
    return None


def _file(place: str | None) -> Path | None:
    return Path(place) if place and Path(place).is_file() else None


def _folders(places: Iterable[str] | None) -> list[str] | None:
    return None if places is None else list(places)


def _installed_by(module: _Module, own: Collection[str]) -> str:
    """The other distributions that installed a module's package, as `name version`; empty if there is none."""
    if module.file is None:
        return ""
    names = [name for name in plugins.distributions_of(module.name.partition(".")[0]) if name not in own]
    file = module.file
    return ", ".join(installed for name in sorted(set(names)) if (installed := _installed_in(name, file)))


@functools.lru_cache(maxsize=4096)
def _installed_in(name: str, file: Path) -> str | None:
    """`name version` if the distribution installed the file as a copy; None for an editable installation."""
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return None
    is_copy = installed.read_text("RECORD") is not None and file.is_relative_to(str(installed.locate_file("")))
    return f"{name} {installed.version}" if is_copy else None
