"""Find the imports of a Python file in its text, without executing it."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Imports:
    """The modules and names that a module's text refers to.

    Attributes:
        used: Dotted names that the module imports when it runs, or reaches through attributes of imported names.
        bound: Maps names in the module to the dotted names they are imported from. Imports for type checkers are
            included, because a package with lazy imports lists its public names there.
    """

    used: frozenset[str]
    bound: Mapping[str, str]


@functools.lru_cache(maxsize=1024)
def imports_in(text: bytes, module: str, *, is_package: bool) -> Imports:
    """The imports of a file; empty if it is not Python.

    Args:
        text: The file's content.
        module: The dotted name of its module, from which relative imports start.
        is_package: Whether the file is the `__init__.py` of that module.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # it cannot be imported either; for example a template in another package
        return Imports(frozenset(), {})
    imports: list[tuple[str, str, bool]] = []
    reaching: list[ast.AST] = []
    for node, runs in _nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += [(name, target, runs) for name, target in _bindings(node, module, is_package)]
        elif runs and isinstance(node, ast.Attribute | ast.Call):
            reaching.append(node)
    # Imports that run come last, so that they override imports under TYPE_CHECKING.
    bound = {name: target for name, target, _ in sorted(imports, key=lambda each: each[2])}
    package = module if is_package else module.rpartition(".")[0]
    used = {target for _, target, runs in imports if runs} | {_reached(node, bound, package) for node in reaching}
    return Imports(frozenset(reference for reference in used if reference), bound)


def _nodes(tree: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, each with whether it is executed; code under `if TYPE_CHECKING:` is not."""
    pending = [(tree, True)]
    while pending:
        node, runs = pending.pop()
        yield node, runs
        is_typing = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        skipped = node.body if is_typing and isinstance(node, ast.If) else []
        pending += [(child, runs and child not in skipped) for child in ast.iter_child_nodes(node)]


def _bindings(node: ast.Import | ast.ImportFrom, module: str, is_package: bool) -> Iterator[tuple[str, str]]:
    """The names that an import binds, each with the dotted name that it refers to."""
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


def _reached(node: ast.AST, bound: Mapping[str, str], package: str) -> str | None:
    """The dotted name that `package.module.name` or `import_module("package.module")` refers to; None for other code."""
    match node:
        case ast.Call(func=ast.Attribute(attr="import_module")):
            return _imported_by(node, package)
        case ast.Call(func=ast.Name(id=name)) if name == "__import__" or bound.get(name, name).endswith("import_module"):
            return _imported_by(node, package)
        case ast.Attribute():
            words: list[str] = []
            value: ast.expr = node
            while isinstance(value, ast.Attribute):
                words.insert(0, value.attr)
                value = value.value
            if isinstance(value, ast.Name) and (value.id in bound or value.id == "minigpt"):
                return ".".join([bound.get(value.id, value.id), *words])
    return None


def _imported_by(call: ast.Call, package: str) -> str | None:
    """The module that a call of `import_module` names by a literal; a relative name starts at the package."""
    given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "name")]
    match given:
        case [ast.Constant(value=str(name))]:
            return importlib.util.resolve_name(name, package) if name.startswith(".") and package else name
    return None
