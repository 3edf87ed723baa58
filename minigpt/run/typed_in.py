"""Fingerprints of classes without a file, which were typed at a prompt or in a notebook.

The fingerprint covers the compiled functions of a class, and the functions, classes and constants of the same session
that they use. Another version of Python compiles to different code, and gives a different fingerprint.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from types import CodeType, FunctionType

_NO_NUMBERS = {"__dict__", "__weakref__", "__doc__", "__annotations__", "__annotate_func__", "__firstlineno__"}


def typed_fingerprint(cls: type) -> str:
    """SHA-256 of the code of a class that was typed in, and of everything from its session that it uses."""
    digest = hashlib.sha256()
    for line in _lines(cls, cls.__module__, set()):
        digest.update(f"{line}\n".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _lines(value: object, session: str, seen: set[int]) -> Iterator[str]:
    """A description of a value, line by line. Functions and classes of the session are described by their code."""
    match value:
        case bool() | int() | float() | complex() | str() | bytes() | None:
            yield repr(value)
        case tuple() | list():
            yield f"{len(value)} values"
            for item in value:
                yield from _lines(item, session, seen)
        case dict():
            for key, item in value.items():
                yield repr(key)
                yield from _lines(item, session, seen)
        case set() | frozenset():
            yield from sorted(line for item in value for line in _lines(item, session, seen))
        case classmethod() | staticmethod():
            yield from _lines(value.__func__, session, seen)
        case property():
            yield from _lines((value.fget, value.fset), session, seen)
        case type() | FunctionType() if value.__module__ != session:
            yield f"{value.__module__}.{value.__qualname__}"
        case type() | FunctionType() if id(value) not in seen:
            seen.add(id(value))
            yield from _class(value, session, seen) if isinstance(value, type) else _function(value, session, seen)


def _class(cls: type, session: str, seen: set[int]) -> Iterator[str]:
    yield from _lines(cls.__bases__, session, seen)
    for name, member in vars(cls).items():
        if name not in _NO_NUMBERS:
            yield name
            yield from _lines(member, session, seen)


def _function(function: FunctionType, session: str, seen: set[int]) -> Iterator[str]:
    yield from _lines((function.__defaults__, function.__kwdefaults__), session, seen)
    yield from _code(function.__code__)
    for name in _names(function.__code__):
        yield name
        yield from _lines(function.__globals__.get(name), session, seen)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # the cell is still empty
            yield from _lines(cell.cell_contents, session, seen)


def _code(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        yield from _code(constant) if isinstance(constant, CodeType) else _lines(constant, "", set())


def _names(code: CodeType) -> list[str]:
    """The global names that a function and its inner functions use."""
    inner = (name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant))
    return list(dict.fromkeys([*code.co_names, *inner]))
