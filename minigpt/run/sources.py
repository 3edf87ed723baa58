"""Which source files a run's numbers follow from: what its parts and the training import inside this package, and so on.

Imports are read from the text of the files and nothing is executed. A name that a package only passes on (`from
minigpt.contracts import Norm`) leads to the module that defines it, so that a run depends on what it executes and not on
all that stands beside it. The `__init__` files above a module count with their text: importing the module executes them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import minigpt
from minigpt.registry import plugins
from minigpt.registry.spec import source_file

PACKAGE = Path(minigpt.__file__).parent
CORE_ROOT = "minigpt.training.session"
"""What every training begins with. It reaches the parts by their names in the experiment, never by an import."""

NO_NUMBERS: Mapping[str, str] = {
    "minigpt.training.observer": "prints what it is given",
    "minigpt.training.tensorboard": "writes down what it is given",
    "minigpt.system.lock": "holds the folder against other processes",
}
"""Modules that a training executes and that change none of its numbers, each with the reason."""


@dataclass(frozen=True)
class _Imports:
    """What a module's text refers to.

    Attributes:
        used: Dotted names of ours that it imports or reaches by an attribute, when it runs.
        bound: Its own names to the dotted names that they are imported from, those for type checkers included: a package
            that imports late names there what it passes on.
    """

    used: frozenset[str]
    bound: Mapping[str, str]


class Sources:
    """The package's source as it is now: each file is read once, so that all fingerprints are of one state.

    Args:
        texts: The text of modules, in place of that of their files.
    """

    def __init__(self, texts: Mapping[str, bytes] | None = None):
        self._texts: dict[str, bytes | None] = dict(texts or {})

    @functools.cached_property
    def core(self) -> frozenset[str]:
        """The modules that every training goes through."""
        return self.closure([CORE_ROOT])

    @functools.cached_property
    def core_fingerprint(self) -> str:
        """SHA-256 of the source that every training goes through."""
        return _digest(self._lines(self.core))

    def part_fingerprint(self, cls: type) -> str:
        """SHA-256 of the source that a component's class stands on, beside what every training goes through.

        A plugin file counts as it was when it was loaded, a package that is not ours as a whole, and both with what they
        import of ours.
        """
        lines: list[str] = []
        references: list[str] = []
        for kind in cls.__mro__:
            top = kind.__module__.partition(".")[0]
            if top in ("builtins", "abc", "typing", "torch"):
                continue
            if top == "minigpt":
                references.append(kind.__module__)
                continue
            if plugin := plugins.plugin_of(kind):
                lines.append(f"plugin {plugin.sha256}")
                texts = (content for name, content in sorted(plugin.files.files.items()) if name.endswith(".py"))
                references += references_in(texts)  # as they were executed: the file may be another since, or gone
            elif place := _place(kind, top):
                lines.append(f"{top} {plugins.source_fingerprint(place)}")
                files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
                references += references_in(file.read_bytes() for file in files if file.is_file())
        return _digest([*dict.fromkeys(lines), *self._lines(self.closure(references) - self.core)])

    def closure(self, references: Iterable[str]) -> frozenset[str]:
        """The modules that dotted names lead to, what those import, and the packages that all of them stand in."""
        found: set[str] = set()
        pending = list(references)
        seen: set[str] = set()
        while pending:
            reference = pending.pop()
            if reference in seen:
                continue
            seen.add(reference)
            module = self._defining_module(reference)
            if module is not None and module not in found and module not in NO_NUMBERS:
                found.add(module)
                pending += self._imports(module).used
        above = {name.rsplit(".", depth)[0] for name in found for depth in range(1, name.count(".") + 1)}
        return frozenset(found | above)

    def _defining_module(self, reference: str) -> str | None:
        """The module that a dotted name leads to; None for one that is not ours."""
        words = reference.split(".")
        if words[0] != "minigpt":
            return None
        length = next(n for n in range(len(words), 0, -1) if self._text(".".join(words[:n])) is not None)
        module, rest = ".".join(words[:length]), words[length:]
        if rest and _is_package(module):
            passed_on = self._imports(module).bound.get(rest[0])
            if passed_on is not None:
                return self._defining_module(".".join([passed_on, *rest[1:]]))
        return module

    def _imports(self, module: str) -> _Imports:
        return _imports_in(self._text(module) or b"", module, is_package=_is_package(module))

    def _text(self, module: str) -> bytes | None:
        """A module's source; None where there is no such module."""
        if module not in self._texts:
            path = _path(module)
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            self._texts[module] = file.read_bytes() if file.is_file() else None
        return self._texts[module]

    def _lines(self, modules: Iterable[str]) -> list[str]:
        return [f"{name} {hashlib.sha256(self._text(name) or b'').hexdigest()}" for name in sorted(modules)]


@functools.cache
def _is_package(module: str) -> bool:
    return _path(module).is_dir()


def _path(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")[1:])


def _place(cls: type, top: str) -> Path | None:
    """What a class from outside came from: the whole folder of a package, or its file."""
    package = sys.modules[top]
    file = getattr(package, "__file__", None)
    if hasattr(package, "__path__") and file:
        return Path(file).parent
    return source_file(cls)


def references_in(texts: Iterable[bytes]) -> Iterator[str]:
    """What files from outside import of ours, as dotted names."""
    for text in texts:
        yield from _imports_in(text, "", is_package=False).used


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------- what a text refers to


@functools.lru_cache(maxsize=1024)
def _imports_in(text: bytes, module: str, *, is_package: bool) -> _Imports:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # it could not be imported either; a foreign package may have such templates
        return _Imports(frozenset(), {})
    imports: list[tuple[str, str, bool]] = []
    reaching: list[ast.AST] = []
    for node, runs in _nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += [(name, target, runs) for name, target in _bindings(node, module, is_package)]
        elif runs and isinstance(node, ast.Attribute | ast.Call):
            reaching.append(node)
    # What stands under TYPE_CHECKING only names where things are, so what runs has the last word.
    bound = {name: target for name, target, _ in sorted(imports, key=lambda each: each[2])}
    used = {target for _, target, runs in imports if runs} | {_reached(node, bound) for node in reaching}
    ours = frozenset(reference for reference in used if reference and reference.partition(".")[0] == "minigpt")
    return _Imports(ours, bound)


def _nodes(tree: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, each with whether it runs: what stands under `if TYPE_CHECKING:` does not."""
    pending = [(tree, True)]
    while pending:
        node, runs = pending.pop()
        yield node, runs
        is_typing = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        skipped = node.body if is_typing and isinstance(node, ast.If) else []
        pending += [(child, runs and child not in skipped) for child in ast.iter_child_nodes(node)]


def _bindings(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> Iterator[tuple[str, str]]:
    """The names that an import makes, each with the dotted name of what it stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name, alias.name
        return
    package = module if is_package else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    origin = ".".join(filter(None, [package if node.level else "", node.module or ""]))
    for alias in node.names:
        yield alias.asname or alias.name, origin if alias.name == "*" else f"{origin}.{alias.name}"


def _reached(node: ast.AST, bound: Mapping[str, str]) -> str | None:
    """What `package.module.name`, or `import_module("package.module")`, stands for."""
    match node:
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return name
        case ast.Attribute():
            words: list[str] = []
            value: ast.expr = node
            while isinstance(value, ast.Attribute):
                words.insert(0, value.attr)
                value = value.value
            if isinstance(value, ast.Name) and (value.id in bound or value.id == "minigpt"):
                return ".".join([bound.get(value.id, value.id), *words])
    return None
