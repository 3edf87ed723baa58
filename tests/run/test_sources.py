"""Tests of the source fingerprint: it covers all code that a training executes, and no other code.

Tiny trainings with every shipped part are traced, each function that one of them executed gets one constant or operator
changed, and the fingerprints of the runs are made again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jaxtyping
import pytest

from minigpt.components.dataset.tinyshakespeare import TinyShakespeare
from minigpt.contracts import Sampler
from minigpt.experiment import Experiment
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, plugins
from minigpt.run import sources
from minigpt.run.sources import NO_NUMBERS, PACKAGE, Sources
from minigpt.system import download as cache
from minigpt.training import train
from tests.strategies import allowed
from tests.training.conftest import TEXT, Watcher

BESIDE = ("minigpt.testing", "minigpt.cli", "minigpt.lab")
"""Modules that a training does not execute."""


def experiments(folder: Path) -> Iterator[Experiment]:
    """Experiments that together use every shipped part."""
    (folder / "corpus.txt").write_text(TEXT[:1500])
    names = {
        family.name: [entry.name for entry in REGISTRY.entries(family.name) if entry.shipped]
        for family in REGISTRY.families()
    }
    text = {"name": "text", "paths": [str(folder / "corpus.txt")]}
    data = {
        "text": text,
        "tinyshakespeare": "tinyshakespeare",
        "shortened": {"name": "shortened", "dataset": text, "fraction": 0.9},
    }
    names["dataset"] = list(data)  # python-docs is large
    names["objective"].remove("distillation")  # it needs a finished run
    positions = names.pop("position")
    mixers = names.pop("attention")
    number = 0
    while positions or number < max(len(mixers) + len(names["batching"]), *map(len, names.values())):
        chosen = {family: each[number % len(each)] for family, each in names.items()}
        mixer = mixers[number] if number < len(mixers) else "mha"
        position = next((name for name in positions if allowed({"name": mixer}, {"name": name})), "none")
        positions = [name for name in positions if name != position]
        training = {key: chosen.pop(key) for key in ("batching", "optimizer", "schedule")}
        dataset, tokenizer, sampler = chosen.pop("dataset"), chosen.pop("tokenizer"), chosen.pop("sampler")
        if mixer not in ("mha", "gqa", "differential", "forgetting") and training["batching"] == "documents":
            training["batching"] = "windows"  # the mixer cannot keep documents apart
        if training["batching"] == "documents":
            dataset = "text"  # the others do not say where documents begin
        if chosen["block"] == "ngpt":
            training["optimizer"] = "adamw"  # weights of length 1, which averaging would change
        init: Any = chosen.pop("init")
        if init in ("mup", "completep"):  # no factor on scores, which some mixers lack; and steps like Adam's
            init = {"name": init, "base_head_dim": 8} if training["optimizer"] not in ("sgd", "muon") else "gpt2"
        yield load_experiment(
            {
                "name": f"run-{number}",
                "data": data[dataset],
                "tokenizer": tokenizer,
                "model": {
                    "d_model": 16,
                    "n_heads": 2,
                    "n_layers": 2,
                    "block_size": 16,
                    "attention": mixer,
                    "position": position,
                    "init": init,
                    **chosen,
                },
                "training": {
                    "batch_size": 2,
                    "max_iters": 2,
                    "eval_interval": 2,
                    "precision": "fp32",
                    "compile": False,
                    **training,
                },
                "sampling": {"max_new_tokens": 2, "sampler": sampler},
            }
        )
        number += 1


@dataclass
class Traced:
    """A run with its parts and the functions of the package that its training executed."""

    name: str
    parts: tuple[type, ...]
    functions: set[CodeType] = field(default_factory=set)

    @functools.cached_property
    def modules(self) -> set[str]:
        return {module_of(code.co_filename) for code in self.functions}

    def changes(self, now: Sources) -> bool:
        """Whether these sources change its fingerprint."""
        if now.core_fingerprint != _NOW.core_fingerprint:
            return True
        return any(part(now, cls) != part(_NOW, cls) for cls in self.parts if not issubclass(cls, Sampler))


@functools.lru_cache(maxsize=256)
def part(now: Sources, cls: type) -> str:
    return now.part_fingerprint(cls)


@functools.cache
def module_of(file: str) -> str:
    words = Path(file).relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def traced(experiment: Experiment, out: Path) -> Traced:
    found = Traced(experiment.name, tuple({spec.cls: None for spec in experiment.specs()}))
    inside = f"{PACKAGE}/"

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(inside):
            found.functions.add(frame.f_code)

    sys.settrace(note)
    try:
        assert train(experiment, out=out, device="cpu", observer=Watcher()).status == "finished"
    finally:
        sys.settrace(None)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Traced]]:
    folder = tmp_path_factory.mktemp("traced")
    content = TEXT[:1500].encode()
    remote = cache.RemoteFile(
        name="small.txt",
        url="https://example.org/small.txt",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIGPT_CACHE", str(folder / "cache"))
        patch.setattr(TinyShakespeare, "remote", remote)
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        (folder / "small.txt").write_bytes(content)
        cache.add(remote, folder / "small.txt")
        yield [traced(experiment, folder / "runs") for experiment in experiments(folder)]


@functools.cache
def functions_in(text: str) -> tuple[ast.FunctionDef, ...]:
    return tuple(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))


def mutated(text: str, code: CodeType) -> str | None:
    """The text with one changed constant or operator in a function; None if the function has neither."""
    lines = text.splitlines(keepends=True)
    starts = [0, *itertools.accumulate(len(line.encode()) for line in lines)]
    raw = text.encode()

    def place(line: int | None, column: int | None) -> int:
        assert line is not None
        assert column is not None
        return starts[line - 1] + column

    for node in functions_in(text):
        if node.name != code.co_name or not node.lineno - len(node.decorator_list) - 3 <= code.co_firstlineno <= node.lineno:
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        for inner in (each for statement in body for each in ast.walk(statement)):
            if (
                isinstance(inner, ast.Constant)
                and isinstance(inner.value, int | float)
                and not isinstance(inner.value, bool)
            ):
                start, end = place(inner.lineno, inner.col_offset), place(inner.end_lineno, inner.end_col_offset)
                return (raw[:start] + b"(" + raw[start:end] + b" + 1)" + raw[end:]).decode()
            if isinstance(inner, ast.BinOp):
                start, end = (
                    place(inner.left.end_lineno, inner.left.end_col_offset),
                    place(inner.right.lineno, inner.right.col_offset),
                )
                between = raw[start:end]
                for sign, other in (
                    (b"+", b"-"),
                    (b"-", b"+"),
                    (b"**", b"*"),
                    (b"*", b"/"),
                    (b"//", b"*"),
                    (b"/", b"*"),
                    (b"|", b"&"),
                    (b"@", b"*"),
                    (b"%", b"*"),
                ):
                    if sign in between:
                        return (raw[:start] + between.replace(sign, other, 1) + raw[end:]).decode()
    return None


@pytest.mark.slow
def test_every_shipped_part_is_in_a_run(runs: list[Traced]) -> None:
    used = {cls for run in runs for cls in run.parts}
    every = {
        entry.cls: f"{entry.family}/{entry.name}"
        for family in REGISTRY.families()
        for entry in REGISTRY.entries(family.name)
    }
    assert {name for cls, name in every.items() if cls not in used and cls.__module__.startswith("minigpt.")} == {
        "objective/distillation",
        "dataset/python-docs",
    }


@pytest.mark.slow
def test_a_change_of_any_function_that_a_run_executes_changes_its_fingerprint_and_no_others(runs: list[Traced]) -> None:
    texts = {module_of(str(file)): file.read_bytes() for file in PACKAGE.rglob("*.py") if "templates" not in file.parts}
    executed: dict[str, set[CodeType]] = defaultdict(set)
    for run in runs:
        for code in run.functions:
            executed[module_of(code.co_filename)].add(code)
    changed_functions = 0
    assert not {module for module in executed if module.startswith(BESIDE)}
    for module, codes in sorted(executed.items()):
        if module in NO_NUMBERS or module.startswith("minigpt.components.sampler."):  # draws text, after a loss is measured
            continue
        file = Path(next(iter(codes)).co_filename)
        text = file.read_text("utf-8")
        for number, code in enumerate(sorted(codes, key=lambda code: code.co_firstlineno)):
            changed = mutated(text, code)
            changed_functions += changed is not None
            if changed is None and number:
                continue  # a function without constant or operator; the file's first one stands for its text
            changed = changed or text + "x = 1\n"
            assert changed != text
            compile(changed, str(file), "exec")
            now = Sources({**texts, module: changed.encode()})
            executing = [run for run in runs if code in run.functions]
            for run in executing:
                assert run.changes(now), f"{module}.{code.co_name}, executed by {run.name}"
            for run in runs if not number else ():
                if run.changes(now) and module not in run.modules:
                    assert _imports(run, module), f"{module} is nothing to {run.name}"
    assert changed_functions > 250


_NOW = Sources()


def _imports(run: Traced, module: str) -> bool:
    """Whether the module contains a part of the run, or is named by code that the run executes."""
    own = {kind.__module__ for cls in run.parts for kind in cls.__mro__}
    texts = [
        Path(sys.modules[name].__file__ or "").read_text("utf-8")
        for name in own | run.modules
        if name.startswith("minigpt.")
    ]
    return module in own or any(f"from {module} import" in text for text in texts) or module in _NOW.core


@pytest.mark.parametrize(
    ("text", "leads_to"),
    [
        ("from minigpt import register", {"minigpt.registry"}),
        ("from minigpt.contracts import Norm", {"minigpt.contracts.parts"}),
        ("from minigpt.contracts import Schedule, Tokenizer", {"minigpt.contracts.optimizing", "minigpt.contracts.text"}),
        ("import minigpt.components.ffn.glu", {"minigpt.components.ffn.glu"}),
        ("import minigpt.components.ffn.glu as g\ng.GLU", {"minigpt.components.ffn.glu"}),
        ("import minigpt\nminigpt.components.ffn.glu.GLU", {"minigpt.components.ffn.glu"}),
        ("from minigpt.components import ffn\nffn.glu.GLU", {"minigpt.components.ffn.glu"}),
        ("def late():\n    from minigpt.components.ffn import glu", {"minigpt.components.ffn.glu"}),
        ("import_module('minigpt.components.ffn.glu')", {"minigpt.components.ffn.glu"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from minigpt.components.ffn.glu import GLU", set()),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import minigpt.components.ffn.glu", {"minigpt.components.ffn.glu"}),
        ("import torch, minigpt_other", set()),
        ("not python", set()),
    ],
)
def test_a_name_leads_to_the_module_that_defines_it(text: str, leads_to: set[str], tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text(text)
    found = _NOW.closure(sources.references_in({"plugin.py": file.read_bytes()}))
    defining = {f"{name.rsplit('.', depth)[0]}" for name in found for depth in range(1, name.count(".") + 1)}
    assert leads_to <= found
    assert {name for name in found if name.startswith("minigpt.components.")} - defining == {
        name for name in leads_to if name.startswith("minigpt.components.")
    }


def test_a_plugin_changes_with_its_imports_from_this_package(tmp_path: Path) -> None:
    file = tmp_path / "wider.py"
    file.write_text(
        "from minigpt import register\nfrom minigpt.components.ffn.glu import GatedLinearUnit\n\n"
        '@register("ffn", "wider")\nclass Wider(GatedLinearUnit):\n    """A GLU."""\n'
    )
    cls = plugins.load_file(file).classes["ffn/wider"]
    for module, changes in (("ffn.glu", True), ("ffn.moe", False), ("attention.softmax", False)):
        name = f"minigpt.components.{module}"
        text = (PACKAGE / "components" / f"{module.replace('.', '/')}.py").read_bytes() + b"x = 1\n"
        assert (Sources({name: text}).part_fingerprint(cls) != _NOW.part_fingerprint(cls)) == changes, module
    before = _NOW.part_fingerprint(cls)
    file.write_text(file.read_text() + "# edited\n")
    assert Sources().part_fingerprint(plugins.load_file(file).classes["ffn/wider"]) != before


def test_an_init_above_a_module_counts_with_its_text_but_not_with_its_other_imports() -> None:
    found = _NOW.closure(["minigpt.components.norm.rmsnorm"])
    assert {"minigpt", "minigpt.components", "minigpt.components.norm"} <= found
    assert not {name for name in found if name.startswith("minigpt.components.") and ".norm" not in name}
    of_every_run = {f"minigpt.components.dataset{name}" for name in ("", ".overlap", ".rows")}  # no components
    assert {name for name in _NOW.core if name.startswith("minigpt.components.")} == of_every_run
    for name in NO_NUMBERS:
        assert name not in _NOW.core
        assert (PACKAGE.parent / Path(*name.split("."))).with_suffix(".py").is_file()
