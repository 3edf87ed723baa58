"""Weights of another kind or size are refused without reading or allocating what they claim."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialized

from tests.conftest import Command
from tests.hostile.edits import header_of, refused, with_weights

FLOAT = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
LIES: dict[str, bytes] = {
    "empty": b"",
    "no header": b"\1\2\3",
    "a header as long as all memory": header_of({"x": FLOAT}, 2**63 - 1) + bytes(16),
    "a header longer than the file": header_of({"x": FLOAT}, 10**6) + bytes(16),
    "more data than there is": header_of({"x": {**FLOAT, "shape": [2**31], "data_offsets": [0, 2**33]}}),
    "an absurd shape": header_of({"x": {**FLOAT, "shape": [2**62, 2**62]}}) + bytes(16),
    "a negative shape": header_of({"x": {**FLOAT, "shape": [-4]}}) + bytes(16),
    "overlapping tensors": header_of({"x": FLOAT, "y": FLOAT}) + bytes(16),
    "offsets that go back": header_of({"x": {**FLOAT, "data_offsets": [16, 0]}}) + bytes(16),
    "an unknown type": header_of({"x": {**FLOAT, "dtype": "F31"}}) + bytes(16),
    "no object": header_of([1, 2, 3]),
    "nested": struct.pack("<Q", 200_000) + b"[" * 200_000,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_headers_that_lie_are_refused(lie: str, name: str, minigpt: Command, run: Path) -> None:
    last = with_weights(run, LIES[lie], name)
    assert str(last) in refused(minigpt, "generate", run, "--checkpoint", "4")


def _changed(run: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> bytes:
    weights = load_file(run / "checkpoints" / "step-00000004" / "model.safetensors")
    change(weights)
    return serialized(weights)


CHANGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda weights: weights.pop("embedding.weight"), "it lacks embedding.weight"),
    "extra": (lambda weights: weights.update(extra=torch.ones(3)), "extra is unknown"),
    "another shape": (lambda w: w.update({"norm.weight": torch.ones(17)}), r"norm.weight: [17] torch.float32, but [16]"),
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
    with_weights(run, _changed(run, how))
    assert message in refused(minigpt, "generate", run, "--checkpoint", "4")


def test_ten_gigabytes_are_refused_without_reading_or_allocating_them(minigpt: Command, run: Path) -> None:
    """A sparse file of this real size, with a matching header and manifest."""
    last = run / "checkpoints" / "step-00000004"
    size = 10 * 2**30
    header = header_of({"embedding.weight": {"dtype": "F32", "shape": [size // 64, 16], "data_offsets": [0, size]}})
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
