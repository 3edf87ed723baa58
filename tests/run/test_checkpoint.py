from __future__ import annotations

import contextlib
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.errors import CheckpointError, WriteError
from minigpt.run import checkpoint
from minigpt.run.checkpoint import Progress
from minigpt.run.packing import pack, unpack
from tests.faults import ERRORS, failing
from tests.records import row
from tests.run.checkpoints import model, save, trained

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    leaves | st.sampled_from([torch.float32, torch.bfloat16, torch.int64]).map(lambda dtype: torch.ones(2, 3).to(dtype)),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(trees)
def test_any_tree_of_plain_values_and_tensors_is_restored(tree: Any) -> None:
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack(tree, tensors)))
    assert same(unpack(packed, tensors), tree)


def test_infinities_are_restored() -> None:
    assert unpack(json.loads(json.dumps(pack([math.inf, -math.inf], {}))), {}) == [math.inf, -math.inf]


def test_a_value_that_would_need_pickle_is_refused() -> None:
    with pytest.raises(CheckpointError, match="may not hold a function, because it could not be saved without pickle"):
        pack({"closure": lambda: None}, {})


def test_a_checkpoint_restores_weights_optimizer_and_progress_bit_for_bit(tmp_path: Path) -> None:
    lm, optimizer = trained()
    progress = Progress(7, 70, 1.5, 2.5, 3, 0.25, 11, 12, 2, 1, row(7, train_loss=1.0))
    checkpoint.save(tmp_path, lm, optimizer, progress, best=True)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.progress == progress
    assert same(found.optimizer, optimizer.state_dict())
    other = model(5)
    found.load_weights(other)
    for name, tensor in lm.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_best_last_and_one_spare_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step, best=step == 2)
    assert checkpoint.available(tmp_path) == [2, 4, 5]
    best, last, third = (checkpoint.load(tmp_path, which) for which in ("best", "last", "4"))
    assert best is not None
    assert last is not None
    assert third is not None
    assert (best.progress.step, last.progress.step, third.progress.step) == (2, 5, 4)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "no temporary folder stays"


def test_a_run_without_checkpoints_gives_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "nowhere") is None
    assert checkpoint.load(tmp_path) is None


def test_a_missing_step_is_reported_with_the_available_steps(tmp_path: Path) -> None:
    save(tmp_path, 3)
    with pytest.raises(CheckpointError, match="has no checkpoint of step 4; available: 3"):
        checkpoint.load(tmp_path, "4")
    with pytest.raises(CheckpointError, match='names no "worst" checkpoint'):
        checkpoint.load(tmp_path, "worst")


def test_before_the_first_evaluation_the_last_is_used_as_the_best(tmp_path: Path) -> None:
    save(tmp_path, 3)
    found = checkpoint.load(tmp_path, "best")
    assert found is not None
    assert found.progress.step == 3
    assert found.notes == ("no evaluation has been made yet: this is the last checkpoint",)


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_checkpoint_without_a_pointer_is_found(tmp_path: Path, which: str) -> None:
    """The process may be killed after the checkpoint gets its name and before a pointer names it."""
    save(tmp_path, 3)
    (tmp_path / "last").unlink()
    found = checkpoint.load(tmp_path, which)
    assert found is not None
    assert found.progress.step == 3


def test_a_damaged_later_checkpoint_does_not_displace_an_intact_one(tmp_path: Path) -> None:
    for step in (6, 8):
        save(tmp_path, step)
    (tmp_path / "step-00000008" / "model.safetensors").write_bytes(b"")
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.progress.step == 6
    save(tmp_path, 7)
    assert checkpoint.available(tmp_path) == [6, 7]


def test_an_optimizers_state_keeps_its_dtypes(tmp_path: Path) -> None:
    lm, optimizer = trained()
    parameter = next(lm.parameters())
    kinds = (torch.bfloat16, torch.int64, torch.float64)
    for dtype in kinds:
        optimizer.state[parameter][str(dtype)] = torch.full(parameter.shape, 3).to(dtype)
    checkpoint.save(tmp_path, lm, optimizer, Progress(step=1), best=True)
    found = checkpoint.load(tmp_path)
    assert found is not None
    other_model, other = trained(1)
    found.load_optimizer(other)
    state = other.state[next(other_model.parameters())]
    assert [state[str(dtype)].dtype for dtype in kinds] == list(kinds)
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_nested_and_shared_optimizer_state_is_restored_bit_for_bit(tmp_path: Path) -> None:
    lm, optimizer = trained()
    parameter = next(lm.parameters())
    optimizer.state[parameter]["history"] = [torch.tensor([2**40 + 1]), {"x": torch.ones(2, dtype=torch.float64)}]
    optimizer.state["shared"] = {"count": torch.tensor(3)}  # type: ignore[index]
    checkpoint.save(tmp_path, lm, optimizer, Progress(step=1), best=True)
    found = checkpoint.load(tmp_path)
    assert found is not None
    _, other = trained(1)
    found.load_optimizer(other)
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_a_groups_value_may_become_a_tensor(tmp_path: Path) -> None:
    """For example the state of a generator, which is None or a seed before the first step."""
    lm, optimizer = trained()
    optimizer.param_groups[0] |= {"generator": torch.Generator().get_state(), "other": torch.ones(2)}
    checkpoint.save(tmp_path, lm, optimizer, Progress(step=1), best=True)
    found = checkpoint.load(tmp_path)
    assert found is not None
    _, other = trained(1)
    other.param_groups[0] |= {"generator": None, "other": 5}
    found.load_optimizer(other)
    assert same(other.state_dict(), optimizer.state_dict())
    other.param_groups[0] |= {"generator": "a text"}
    with pytest.raises(CheckpointError, match="generator of group 0 is"):
        found.load_optimizer(other)


def test_each_repetition_of_a_step_gets_a_higher_number(tmp_path: Path) -> None:
    names = [save(tmp_path, 40).name for _ in range(4)]
    assert names == ["step-00000040", "step-00000040.1", "step-00000040.2", "step-00000040.3"]
    assert len(list(tmp_path.glob("step-*"))) == 2, "the last and a spare"


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    found = checkpoint.load(tmp_path)
    assert found is not None
    lm = model()
    with pytest.raises(CheckpointError, match="holds the state of another optimizer"):
        found.load_optimizer(torch.optim.AdamW(list(lm.parameters())[:2]))


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    lm = model(n_layers=2)
    lm.blocks[1].ffn.into.weight = lm.blocks[0].ffn.into.weight
    checkpoint.save(tmp_path, lm, torch.optim.AdamW(lm.parameters()), Progress(step=1), best=True)
    found = checkpoint.load(tmp_path)
    assert found is not None
    found.load_weights(lm)
    assert lm.blocks[1].ffn.into.weight is lm.blocks[0].ffn.into.weight


def test_a_step_that_is_saved_again_is_loaded_in_its_new_version(tmp_path: Path) -> None:
    save(tmp_path, 3, seed=0)
    assert save(tmp_path, 3, seed=1).name == "step-00000003.1", "the existing one is not overwritten"
    for which in ("last", "3"):
        found = checkpoint.load(tmp_path, which)
        assert found is not None
    assert found is not None
    assert torch.equal(found.weights["embedding.weight"], trained(1)[0].state_dict()["embedding.weight"])


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_is_found_and_the_previous_checkpoint_is_loaded(tmp_path: Path, seed: int) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    chance = random.Random(seed)
    file = chance.choice(sorted(path.iterdir()))
    content = bytearray(file.read_bytes())
    match seed % 3:
        case 0:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        case 1:
            del content[chance.randrange(len(content)) :]
        case _:
            content += b"\0"
    # Some damage to a manifest has no effect (one more space at its end). Damage to the other files always has.
    if file.name == "manifest.json" and _same_json(bytes(content), file.read_bytes()):
        content = content[:5]
    file.write_bytes(content)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.progress.step == 1
    assert "skipped" in found.notes[0]
    assert str(path) in found.notes[0]


def _same_json(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


def test_if_all_checkpoints_are_damaged_each_is_named(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path)
    assert "step-00000001" in str(error.value)
    assert "step-00000002" in str(error.value)


@pytest.mark.parametrize("pointer", ["../../etc", "step-1/../..", "", "step-00000099\n", "\x00"])
def test_a_pointer_that_is_not_the_name_of_a_checkpoint_is_not_followed(tmp_path: Path, pointer: str) -> None:
    save(tmp_path, 1)
    (tmp_path / "last").write_text(pointer)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.progress.step == 1


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    found = checkpoint.load(tmp_path)
    assert found is not None
    with pytest.raises(CheckpointError, match="holds the weights of another model: .*size mismatch"):
        found.load_weights(model(d_model=16))


@pytest.mark.parametrize("first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in range(1, len(ERRORS)))])
def test_a_save_that_fails_at_any_point_leaves_an_intact_checkpoint(tmp_path: Path, first: int) -> None:
    """For every n, the n-th write, sync, rename, close or removal of a save fails, and the next save succeeds."""
    for step in (1, 2, 3):  # so that there is something to prune
        save(tmp_path, step, seed=step)
    step, nth, seen = 3, 0, set()
    while True:
        step, nth = step + 1, nth + 1
        error = ERRORS[(first + nth) % len(ERRORS)]
        with failing(tmp_path, nth, error) as faults, contextlib.suppress(WriteError):
            save(tmp_path, step, seed=step)
        if nth > len(faults.calls):
            break  # the save has fewer calls: each has failed once
        seen.add(faults.calls[-1] if len(faults.calls) == nth else faults.calls[nth - 1])
        found = checkpoint.load(tmp_path)
        assert found is not None
        assert found.progress.step in (step - 1, step), "the previous or the new checkpoint"
        expected = trained(found.progress.step)[0].state_dict()["embedding.weight"]
        assert torch.equal(found.weights["embedding.weight"], expected)
        assert not found.notes, "no damaged checkpoint was skipped"
        step += 1
        save(tmp_path, step, seed=step)
        assert checkpoint.available(tmp_path)[-1] == step
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], (
            "temporary files of a failed save are removed"
        )
    assert nth > 25
    assert seen >= {"open", "write", "fsync", "close", "mkdir", "replace", "rename", "unlink", "rmdir"}


def test_a_system_that_writes_few_bytes_at_a_time_gets_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: real(handle, content[:100]))
    save(tmp_path, 1, seed=1)
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert torch.equal(found.weights["embedding.weight"], trained(1)[0].state_dict()["embedding.weight"])


def test_a_checkpoint_that_the_disk_does_not_return_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a disk reports a write that it did not do, no pointer names the new checkpoint, and the old ones stay."""
    for step in (1, 2):
        save(tmp_path, step, seed=step)
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: real(handle, bytes(len(content))))
    with pytest.raises(WriteError, match=r"step-00000003/model.safetensors reads back differently than it was written"):
        save(tmp_path, 3)
    assert checkpoint.available(tmp_path) == [1, 2]
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.progress.step == 2
