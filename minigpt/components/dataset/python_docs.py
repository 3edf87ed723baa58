"""The documentation inside every Python installation: a corpus without a download."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import sys
import sysconfig
from pathlib import Path
from typing import Annotated

from pydantic import Field

from minigpt.contracts import Dataset, Splits
from minigpt.errors import DataError
from minigpt.registry import register


@register("dataset", "python-docs")
class PythonDocs(Dataset):
    """Python's language reference and the library's docstrings: 1 MB of English and code, no network.

    The text differs slightly between Python versions; the run's provenance records its fingerprint.

    Args:
        val_fraction: Share of the documents for validation.
    """

    def __init__(self, *, val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1):
        self.val_fraction = val_fraction

    def load(self) -> Splits:
        return Splits.of_documents(_documents(), "\n\n", self.val_fraction)


@functools.cache  # reading takes seconds, and an installation does not change while it is used
def _documents() -> tuple[str, ...]:
    """All documents, sorted by hash: a fixed order that mixes reference and docstrings, so that both splits are alike."""
    return tuple(sorted(_topics() + _docstrings(), key=lambda text: hashlib.sha256(text.encode()).digest()))


def _topics() -> list[str]:
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise DataError('this Python has no pydoc_data: use data "text" with files of your own') from error
    return [topics[name].strip() for name in sorted(topics)]


def _docstrings() -> list[str]:
    """Docstrings of the library's plain modules, read without importing them."""
    library = Path(sysconfig.get_path("stdlib"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = []
    for name in sorted(sys.stdlib_module_names):
        file = library / f"{name}.py"
        if file.is_file():
            tree = ast.parse(file.read_text("utf-8"))
            nodes = (node for node in ast.walk(tree) if isinstance(node, documented))
            texts.append("\n\n".join(doc for node in nodes if (doc := ast.get_docstring(node)) and doc.isascii()))
    return [text for text in texts if text]
