"""Malicious files are refused in one line each: no code in them is executed, no link followed, no size believed."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialized

import minigpt as package
from minigpt.lab.compare.record import seal
from minigpt.reading import load_experiment
from minigpt.training import PlainObserver, train
from tests.conftest import Command

SOURCE = Path(package.__file__).parent
TINY = {"d_model": 16, "n_heads": 2, "n_layers": 1, "block_size": 16}
TEXT = "ROMEO: It was the lark, The herald of the morn.\n" * 40


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment and its run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "corpus.txt").write_text(TEXT)
    training = {"max_iters": 4, "eval_interval": 2, "batch_size": 2, "compile": False, "precision": "fp32"}
    document = {"data": {"name": "text", "paths": ["corpus.txt"]}, "model": TINY, "training": training}
    (folder / "small.json").write_text(json.dumps({**document, "sampling": {"max_new_tokens": 4}}))
    train(load_experiment(folder / "small.json"), out=folder / "runs", device="cpu", observer=PlainObserver(io.StringIO()))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder, in a separate working folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run = Path("runs/small/seed-1337")
    (run / "manifest.json").unlink()  # without digests, so that the later checks are reached
    return run


def refused(minigpt: Command, *arguments: str | Path) -> str:
    """The error of a command, which must refuse its input without a traceback."""
    code, out, err = minigpt(*arguments)
    assert code == 2, (arguments, code, out, err)
    refusal = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("plugin: "))
    assert refusal.startswith("error: ")
    assert "Traceback" not in refusal
    return refusal


# ------------------------------------------------------------------------------------------------------ no file is code

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


@pytest.mark.parametrize("words", [["show"], ["show", "--json"], ["report"], ["generate"], ["resume"]])
def test_half_a_character_in_a_record_is_refused_in_one_line(words: list[str], minigpt: Command, run: Path) -> None:
    document = json.loads((run / "experiment.json").read_text())
    document["model"]["attention"]["dropout"] = "\ud800"
    (run / "experiment.json").write_text(json.dumps(document))
    assert "half a character" in refused(minigpt, words[0], run, *words[1:])


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


# --------------------------------------------------------------------------------------------------------- bad weights


def _header(value: Any, length: int | None = None) -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


FLOAT = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
LIES: dict[str, bytes] = {
    "empty": b"",
    "no header": b"\1\2\3",
    "a header as long as all memory": _header({"x": FLOAT}, 2**63 - 1) + bytes(16),
    "a header longer than the file": _header({"x": FLOAT}, 10**6) + bytes(16),
    "more data than there is": _header({"x": {**FLOAT, "shape": [2**31], "data_offsets": [0, 2**33]}}),
    "an absurd shape": _header({"x": {**FLOAT, "shape": [2**62, 2**62]}}) + bytes(16),
    "a negative shape": _header({"x": {**FLOAT, "shape": [-4]}}) + bytes(16),
    "overlapping tensors": _header({"x": FLOAT, "y": FLOAT}) + bytes(16),
    "offsets that go back": _header({"x": {**FLOAT, "data_offsets": [16, 0]}}) + bytes(16),
    "an unknown type": _header({"x": {**FLOAT, "dtype": "F31"}}) + bytes(16),
    "no object": _header([1, 2, 3]),
    "nested": struct.pack("<Q", 200_000) + b"[" * 200_000,
}


def _with_weights(run: Path, content: bytes, name: str = "model.safetensors") -> Path:
    """The last checkpoint with other weights, and a manifest with their digests."""
    last = run / "checkpoints" / "step-00000004"
    (last / name).write_bytes(content)
    manifest = json.loads((last / "manifest.json").read_text())
    manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (last / "manifest.json").write_text(json.dumps(manifest))
    return last


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_headers_that_lie_are_refused(lie: str, name: str, minigpt: Command, run: Path) -> None:
    last = _with_weights(run, LIES[lie], name)
    assert str(last) in refused(minigpt, "generate", run, "--checkpoint", "4")


def _changed(run: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> bytes:
    weights = load_file(run / "checkpoints" / "step-00000004" / "model.safetensors")
    change(weights)
    return serialized(weights)


CHANGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda weights: weights.pop("embedding.weight"), "it lacks embedding.weight"),
    "extra": (lambda weights: weights.update(extra=torch.ones(3)), "extra is unknown"),
    "another shape": (lambda w: w.update({"norm.weight": torch.ones(17)}), r"norm.weight: [17] torch.float32, where [16]"),
    "as large, another shape": (lambda w: w.update({"norm.weight": torch.ones(4, 4)}), "norm.weight: [4, 4]"),
    "another type": (
        lambda weights: weights.update({"norm.weight": torch.ones(16, dtype=torch.int8)}),
        "norm.weight: [16] torch.int8, but [16] torch.float32 is expected",
    ),
    "nan": (lambda weights: weights["norm.weight"].fill_(torch.nan), "the weight norm.weight is not finite"),
    "infinite": (lambda weights: weights["norm.weight"][3:4].fill_(torch.inf), "the weight norm.weight is not finite"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_of_another_kind_are_refused(change: str, minigpt: Command, run: Path) -> None:
    how, message = CHANGES[change]
    _with_weights(run, _changed(run, how))
    assert message in refused(minigpt, "generate", run, "--checkpoint", "4")


def test_ten_gigabytes_are_refused_without_reading_or_allocating_them(minigpt: Command, run: Path) -> None:
    """A sparse file of this real size, with a matching header and manifest."""
    last = run / "checkpoints" / "step-00000004"
    size = 10 * 2**30
    header = _header({"embedding.weight": {"dtype": "F32", "shape": [size // 64, 16], "data_offsets": [0, size]}})
    with (last / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)
    manifest = json.loads((last / "manifest.json").read_text())
    manifest["model.safetensors"] = {"bytes": len(header) + size, "sha256": "0" * 64}
    (last / "manifest.json").write_text(json.dumps(manifest))
    began = time.monotonic()
    assert "holds the weights of another model" in refused(minigpt, "generate", run, "--checkpoint", "4")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("name", "value"), [("d_model", 131072), ("n_layers", 200)])
def test_an_experiment_that_claims_more_than_its_weights_allocates_no_memory(
    name: str, value: int, minigpt: Command, run: Path
) -> None:
    recorded = json.loads((run / "provenance.json").read_text())
    for file, edited in ((run / "experiment.json", {}), (run / "provenance.json", recorded)):
        document = edited or json.loads(file.read_text())
        model = document["experiment"]["model"] if edited else document["model"]
        model |= {name: value, "head_dim": 8}  # in both files, because they must agree
        file.write_text(json.dumps(document))
    began = time.monotonic()
    error = refused(minigpt, "generate", run)
    assert "needs" in error or "another model" in error
    assert time.monotonic() - began < 20


def test_an_invented_vocabulary_in_provenance_is_refused(minigpt: Command, run: Path) -> None:
    file = run / "provenance.json"
    for size in (10**12, -1, "7", None, 10**30):
        document = json.loads(file.read_text())
        document["data"]["vocab_size"] = size
        file.write_text(json.dumps(document))
        assert "damaged" in refused(minigpt, "generate", run)


def test_an_optimizers_state_of_another_shape_is_refused_before_a_kernel_reads_it(minigpt: Command, run: Path) -> None:
    experiment = run / "experiment.json"  # as if four updates were missing
    experiment.write_text(experiment.read_text().replace('"max_iters": 4', '"max_iters": 8'))
    for folder in run.glob("checkpoints/step-*"):
        tensors = load_file(folder / "optimizer.safetensors")
        content = serialized({name: torch.ones(3) for name in tensors})
        (folder / "optimizer.safetensors").write_bytes(content)
        manifest = json.loads((folder / "manifest.json").read_text())
        digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps({**manifest, "optimizer.safetensors": digest}))
    error = refused(minigpt, "resume", run, "--accept-changes")
    assert "holds the state of another optimizer" in error


# ------------------------------------------------------------------------------------------------------------ JSON


DEEP = "[" * 100_000
JSON_BOMBS = {
    "deep arrays": DEEP,
    "deep objects": '{"a":' * 100_000,
    "deep and closed": DEEP + "]" * 100_000,
    "deep inside": '{"model": ' + "[" * 5000 + "]" * 5000 + "}",
    "nan": '{"training": {"grad_clip": NaN}}',
    "infinity": '{"training": {"grad_clip": Infinity}}',
    "an overflow": '{"training": {"grad_clip": 1e999}}',
    "a number of a million digits": '{"seed": ' + "9" * 1_000_000 + "}",
    "keys twice": '{"seed": 1, "seed": 2}',
    "no object": "[1, 2]",
    "binary": "\x00\x01\x02",
    "half a character": '{"description": "\\ud800"}',
    "a name that leads out": '{"name": "../../x"}',
    "a name that is a path": '{"name": "/tmp/x"}',
    "a name with an end of line": '{"name": "x\\n"}',
    "a name of the system": '{"name": "con"}',
    "another": '{"name": "LPT1.json"}',
    "a name with a dot at its end": '{"name": "x."}',
}


@pytest.mark.parametrize("bomb", JSON_BOMBS)
def test_json_that_is_not_an_experiment_is_refused_within_a_second(
    bomb: str, minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(JSON_BOMBS[bomb])
    began = time.monotonic()
    assert refused(minigpt, "show", "mine.json").startswith("error: mine.json: ")
    assert time.monotonic() - began < 5
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.json"]


def test_a_hundred_thousand_keys_take_no_time(minigpt: Command, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({f"k{number}": 1 for number in range(60_000)}))
    began = time.monotonic()
    refused(minigpt, "show", file)
    assert time.monotonic() - began < 20


def test_a_hundred_megabytes_a_pipe_and_a_device_are_not_read(minigpt: Command, tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(100 * 2**20)
    assert "not an experiment" in refused(minigpt, "show", large)
    os.mkfifo(tmp_path / "pipe.json")
    for place in (tmp_path / "pipe.json", Path("/dev/zero")):
        assert "ordinary file" in refused(minigpt, "show", place)
        child = tmp_path / "child.json"
        child.write_text(json.dumps({"extends": str(place)}))
        assert "ordinary file" in refused(minigpt, "show", child)


def test_a_chain_of_extends_has_a_limit(minigpt: Command, tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.json").write_text(json.dumps({"extends": f"{number + 1}.json"}))
    (tmp_path / "100.json").write_text("{}")
    assert "a chain of more than 50 files" in refused(minigpt, "show", tmp_path / "0.json")


@pytest.mark.parametrize("name", ["experiment.json", "tokenizer.json", "provenance.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [DEEP, "{}", "[]", "null", '{"step": "x"}', "\x00", ""])
def test_files_of_a_run_with_other_content_are_refused(name: str, content: str, minigpt: Command, run: Path) -> None:
    (run / name).write_text(content + "\n")
    if name == "metrics.jsonl":
        refused(minigpt, "report", run)
    else:
        refused(minigpt, "generate", run)
    code, out, _ = minigpt("runs")
    assert code == 0
    assert "small/seed-1337" in out, "the list still shows it"


def _unfinished(run: Path) -> None:
    """Change the experiment as if four updates were missing."""
    experiment = run / "experiment.json"
    experiment.write_text(experiment.read_text().replace('"max_iters": 4', '"max_iters": 8'))


RECORDED: list[tuple[str, Any]] = [
    *(("machine", value) for value in (None, {}, {"device": "cpu", "threads": "x"}, {"device": "cpu", "threads": -1})),
    *(("machine", value) for value in ({"device": "cpu", "threads": 2**40}, {"device": "tpu", "threads": 1})),
    *(("components", value) for value in (None, [1], [{}], {"component": "x"})),
    *(("versions", value) for value in ([], {"torch": 1}, None)),
    *(("data", value) for value in (None, {}, [], {"fingerprint": 1, "vocab_size": 3})),
    *(("precision", value) for value in ("fp99", None)),
    *(("experiment", value) for value in (3, [], json.loads('{"a":' * 400 + "1" + "}" * 400))),
    *(("segments", value) for value in (3, [1], [{"from_update": -1, "started": "", "changes": []}], [{"changes": "x"}])),
    ("folder", 3),
    ("machine", {"device": "cpu", "threads": 1 << 16}),
]


@pytest.mark.parametrize(("key", "value"), RECORDED, ids=lambda value: str(value)[:60])
def test_provenance_of_another_form_is_refused_by_every_command(key: str, value: Any, minigpt: Command, run: Path) -> None:
    _unfinished(run)
    file = run / "provenance.json"
    recorded = json.loads(file.read_text())
    beside = recorded[key] if isinstance(value, dict) and value and key in ("machine", "data", "versions") else {}
    file.write_text(json.dumps({**recorded, key: {**beside, **value} if beside else value}))
    for command in (["resume", run, "--accept-changes"], ["report", run], ["generate", run]):
        assert "provenance.json is damaged" in refused(minigpt, *command)
    assert minigpt("runs")[0] == 0
    Path("other.json").write_text(json.dumps({"extends": "small.json", "name": "other", "model": {"ffn": "glu"}}))
    code, _, err = minigpt("compare", "small.json", "other.json", "--seeds", "1", "--plan")
    assert code == 0, err


def _with_state(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change state.json in every checkpoint, and its digest in the manifest."""
    for folder in run.glob("checkpoints/step-*"):
        document = json.loads((folder / "state.json").read_text())
        change(document)
        content = json.dumps(document).encode()
        (folder / "state.json").write_bytes(content)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))


def _entries(document: dict[str, Any], key: str) -> dict[str, Any]:
    """The packed value under a key of the optimizer's state_dict."""
    return next(value for packed, value in document["optimizer"]["dict"] if packed == {"value": key})


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an index too far": lambda d: _entries(d, "state")["dict"].append([{"value": 999}, {"dict": []}]),
    "a list for a state": lambda d: d["optimizer"]["dict"].__setitem__(0, [{"value": "state"}, {"list": []}]),
    "no groups": lambda d: d["optimizer"]["dict"].__setitem__(1, [{"value": "param_groups"}, {"value": 3}]),
    "too few groups": lambda d: _entries(d, "param_groups")["list"].pop(),
    "a text for a number": lambda d: _entries(d, "param_groups")["list"][0]["dict"].__setitem__(
        0, [{"value": "lr"}, {"value": "x"}]
    ),
    "nothing": lambda d: d.__setitem__("optimizer", {"dict": []}),
    "half a state": lambda d: _entries(d, "state")["dict"][0][1]["dict"].pop(),
    "an empty record": lambda d: d["progress"].__setitem__("pending", {}),
    "a record of texts": lambda d: d["progress"].__setitem__("pending", {"step": "x"}),
    "a record without numbers": lambda d: d["progress"].__setitem__("pending", {"step": 4, "train_loss": float("nan")}),
}


@pytest.mark.parametrize("state", STATES)
def test_a_training_state_of_another_form_is_refused(state: str, minigpt: Command, run: Path) -> None:
    _unfinished(run)
    _with_state(run, STATES[state])
    refused(minigpt, "resume", run, "--accept-changes")


def test_a_comparison_of_another_form_is_refused(minigpt: Command, run: Path) -> None:
    file = Path("comparisons/x/comparison.json")
    file.parent.mkdir(parents=True)
    for document in ({}, {"settings": {"unit": "nats"}, "variants": [{}]}, {"settings": 3, "variants": 4}):
        file.write_text(json.dumps(seal(document)))
        refused(minigpt, "report", file.parent)


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.txt"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(name: str, minigpt: Command, run: Path) -> None:
    _unfinished(run)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    refused(minigpt, "resume", run, "--accept-changes")


def test_a_pipe_in_place_of_a_new_file_is_removed(minigpt: Command, run: Path) -> None:
    _unfinished(run)
    os.mkfifo(run / "checkpoints" / ".last.new")
    code, _, err = minigpt("resume", run, "--accept-changes")
    assert code == 0, err
    assert not (run / "checkpoints" / ".last.new").exists()


def test_a_run_does_not_start_in_a_folder_with_only_checkpoints(minigpt: Command, run: Path) -> None:
    (run / "experiment.json").unlink()
    assert "has checkpoints and no experiment.json" in refused(minigpt, "run", "small.json")
    assert minigpt("run", "small.json", "--fresh")[0] == 0
    assert Path("runs/small/seed-1337.old-1/checkpoints").is_dir()


def test_names_that_are_not_text_are_kept_unchanged(minigpt: Command, run: Path) -> None:
    """An argument may be any bytes."""
    odd = os.fsdecode(b"caf\xe9.json")
    shutil.copy("small.json", odd)
    done = subprocess.run([sys.executable, "-m", "minigpt", "run", odd, "--name", "odd"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    refused(minigpt, "run", odd, "--name", "odd", "--out", os.fsdecode(b"r\xfcns"))
    refused(minigpt, "run", "small.json", "--set", 'description="\\ud800"')


def test_a_run_in_the_working_folder_can_be_named_by_a_dot(
    minigpt: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    assert "is finished (step 4)" in refused(minigpt, "resume", ".")


# ------------------------------------------------------------------------------------------------- links that lead out


IN_A_CHECKPOINT = "checkpoints/step-00000004/state.json"


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "samples.txt", "checkpoints", "checkpoints/last", "provenance.json", IN_A_CHECKPOINT]
)
def test_links_out_of_a_run_are_not_written_through(name: str, minigpt: Command, run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    place = run / name
    place.rename(outside)
    before = sorted(outside.iterdir()) if outside.is_dir() else outside.read_bytes()
    place.symlink_to(outside)
    experiment = run / "experiment.json"
    experiment.write_text(experiment.read_text().replace('"max_iters": 4', '"max_iters": 8'))
    assert f"{place} is a symbolic link" in refused(minigpt, "resume", run, "--accept-changes")
    assert (sorted(outside.iterdir()) if outside.is_dir() else outside.read_bytes()) == before


def test_a_link_in_place_of_a_new_run_is_not_written_through(minigpt: Command, run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    folder = Path("runs/small/seed-7")
    folder.mkdir()
    (folder / "metrics.jsonl").symlink_to(outside)
    assert "is a symbolic link" in refused(minigpt, "run", "small.json", "--seed", "7")
    assert outside.read_text() == "mine"


# --------------------------------------------------------------------------------------- code comes from plugins alone


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
