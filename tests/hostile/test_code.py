"""No file is executed as code: neither a pickle in any place, nor a plugin that is refused."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minigpt as package
from tests.conftest import Command
from tests.hostile.edits import refused

SOURCE = Path(package.__file__).parent


FORBIDDEN = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.package", "np.load", "numpy.load", "eval", "__import__"),
}


def test_the_source_neither_unpickles_nor_evaluates() -> None:
    found = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0], *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Call):
                names = [ast.unparse(node.func)]
            found += [(file.name, name) for name in names if name in FORBIDDEN]
            if file.name not in ("plugins.py", "plugin_files.py"):
                found += [(file.name, name) for name in names if name in ("exec", "compile")]
    assert found == []


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (os.mkdir, ("exploded",))


def _torch_archive() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": _Bomb()}, buffer)
    return buffer.getvalue()


def _numpy_archive() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Bomb()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _zip_with_pickle() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(_Bomb()))
    return buffer.getvalue()


BOMBS = {
    **{f"protocol {protocol}": pickle.dumps(_Bomb(), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
    "torch": _torch_archive(),
    "numpy": _numpy_archive(),
    "zip": _zip_with_pickle(),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_in_place_of_any_file_is_refused_and_not_opened(bomb: str, minigpt: Command, run: Path) -> None:
    content = BOMBS[bomb]
    last = next(run.glob("checkpoints/step-00000004"))
    manifest = json.loads((last / "manifest.json").read_text())
    doors: list[tuple[Path, list[str | Path]]] = [
        *((last / name, ["generate", run]) for name in ("model.safetensors", "optimizer.safetensors", "state.json")),
        (last / "manifest.json", ["generate", run]),
        *((run / name, ["generate", run]) for name in ("experiment.json", "tokenizer.json", "provenance.json")),
        (run / "metrics.jsonl", ["report", run]),
        (Path("mine.json"), ["run", "mine.json"]),
        (Path("mine.json"), ["compare", "small.json", "mine.json"]),
        (Path("mine.json"), ["check", "mine.json"]),
        (Path("plugin.py"), ["check", "plugin.py"]),
        (Path("corpus.txt"), ["run", "small.json", "--name", "other"]),
        (Path("comparisons/x/comparison.json"), ["report", "comparisons/x"]),
    ]
    for file, command in doors:
        file.parent.mkdir(parents=True, exist_ok=True)
        sound = file.read_bytes() if file.exists() else None
        file.write_bytes(content + b"\n" if file.name == "metrics.jsonl" else content)  # no incomplete line
        if file.name in manifest:  # with a manifest that has its digest
            digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (last / "manifest.json").write_text(json.dumps({**manifest, file.name: digest}))
        if file.parent == last and command[0] == "generate":
            command = [*command, "--checkpoint", "4"]
        if not (file.name == "corpus.txt" and content.isascii()):  # then it is ordinary text
            refused(minigpt, *command)
        code, _, _ = minigpt("runs")
        assert code == 0
        assert not Path("exploded").exists(), file
        file.unlink() if sound is None else file.write_bytes(sound)
        (last / "manifest.json").write_text(json.dumps(manifest))
    assert minigpt("generate", run, "--checkpoint", "4")[0] == 0, "after the repair it works as before"


def test_no_plugins_refuses_a_run_with_plugins_and_executes_nothing(minigpt: Command, run: Path) -> None:
    Path("mark.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    for file, command in ((Path("small.json"), "run"), (run / "experiment.json", "generate")):
        document = json.loads(file.read_text())
        document["plugins"] = [str(Path("mark.py").absolute())]
        file.write_text(json.dumps(document))
        target = file if command == "run" else run
        assert "plugins are refused (--no-plugins)" in refused(minigpt, command, target, "--no-plugins")
        assert not Path("executed").exists()
    code, _, err = minigpt("run", "small.json", "--name", "other")
    assert code == 2, err
    assert Path("executed").exists(), "a named plugin is executed"


@pytest.mark.slow
def test_run_resume_and_generate_report_the_plugins_they_load(minigpt: Command, run: Path) -> None:
    Path("mine.py").write_text(
        "from minigpt import register\nfrom minigpt.components.norm.rmsnorm import RMSNorm\n\n"
        '@register("norm", "mine")\nclass Mine(RMSNorm):\n    """A norm of the user."""\n'
    )
    code, out, err = minigpt("run", "small.json", "--plugin", "mine.py", "--set", "model.norm=mine", "--name", "with")
    assert code == 0, err
    assert f"plugin: {Path('mine.py').absolute()}" in out
    code, _, err = minigpt("generate", "runs/with/seed-1337")
    assert code == 0
    assert "plugins/mine.py" in err
