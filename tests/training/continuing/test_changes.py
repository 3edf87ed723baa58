"""A run that is continued with other code, at another place, on another machine, or beyond its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt.errors import MinigptError, RunError
from minigpt.reading import load_experiment
from minigpt.run import RunFolder, open_run
from minigpt.run.recorded import MAX_THREADS
from minigpt.training import resume, session, train
from tests.forging import forge
from tests.page import ROOT
from tests.training.conftest import TEXT, Watcher, run
from tests.training.continuing.by_hand import Stopped, continued_by_hand, document, equal, weights


def test_an_accepted_change_of_code_takes_effect_in_the_optimizer_too(
    stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped(tmp_path)
    from minigpt.components.optimizer import adamw
    from minigpt.components.optimizer.groups import decay_groups

    def uniform_decay(parameters: Any, weight_decay: float) -> Any:
        return [{**group, "weight_decay": 0.7} for group in decay_groups(parameters, weight_decay)]

    monkeypatch.setattr(adamw, "decay_groups", uniform_decay)
    recorded = json.loads((folder.path / "provenance.json").read_text())
    recorded["core"] = "other"
    forge(folder.path / "provenance.json", recorded)
    expected = continued_by_hand(folder, [])
    with pytest.raises(RunError, match="these changed: minigpt's model or training code. Undo the changes"):
        resume(folder.path, observer=Watcher())
    resume(folder.path, accept_changes=True, observer=Watcher())
    assert equal(weights(folder), expected)
    assert folder.later_segments() == ["from update 3 on: minigpt's model or training code"]


def test_a_finished_run_is_trained_further_and_its_history_says_so(stopped: Stopped, tmp_path: Path) -> None:
    folder, observer = stopped(tmp_path, schedule="cosine"), Watcher()
    resume(folder.path, observer=observer)
    assert folder.is_finished()
    with pytest.raises(RunError, match=r"is finished \(step 6\); .*further: minigpt resume .* --set training.max_iters=12"):
        resume(folder.path, observer=observer)
    expected = continued_by_hand(folder, ["training.max_iters=9"])
    resume(folder.path, overrides=["training.max_iters=9"], observer=observer)
    assert equal(weights(folder), expected)
    assert folder.is_finished()
    assert [row.step for row in folder.rows()] == list(range(1, 10))
    resume(folder.path, overrides=["training.max_iters=10", "training.grad_clip=0.5"], threads=1, observer=observer)
    assert folder.later_segments() == [
        "from update 6 on: training.max_iters (6 then, 9 now)",
        "from update 9 on: training.max_iters (9 then, 10 now); training.grad_clip (1.0 then, 0.5 now)",
    ]
    recorded = folder.provenance()
    first, second, _ = recorded.segments
    for origin, max_iters in ((first.provenance, 6), (second.provenance, 9), (recorded, 10)):
        assert origin is not None
        assert origin.experiment["training"]["max_iters"] == max_iters  # type: ignore[call-overload, index]
    printed = observer.out.getvalue()
    assert "changed: training.max_iters (6 then, 9 now)" in printed
    assert "from now on the schedule covers 9 updates" in printed
    assert "from update 6 on this is another segment of the run, and compare will not use the run" in printed


@pytest.mark.parametrize("objective", ["multi_token", {"name": "multi_token", "n_future": 2}])
def test_an_objective_with_other_weights_is_refused_by_name(stopped: Stopped, tmp_path: Path, objective: Any) -> None:
    folder = stopped(tmp_path)
    with pytest.raises(
        RunError, match="cannot be continued with objective multi_token: it has other weights than next_token"
    ):
        resume(folder.path, overrides=[f"model.objective={json.dumps(objective)}"], observer=Watcher())


def test_a_project_that_was_moved_is_the_same_by_its_fingerprints(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new" / "place"
    old.mkdir()
    (old / "corpus.txt").write_text(TEXT[:3000])
    begun = run(load_experiment(document(old, "adamw", "constant")), old / "runs", Watcher(("updated", 3)))
    whole = run(load_experiment(document(old, "adamw", "constant")), tmp_path / "whole")
    new.parent.mkdir()
    old.rename(new)
    folder = RunFolder(new / begun.run.path.relative_to(old))
    resume(folder.path, observer=Watcher())
    assert folder.later_segments() == []
    assert equal(weights(folder), weights(whole.run))
    assert folder.experiment().to_json()["data"]["paths"] == [str(new / "corpus.txt")]


def test_paths_of_datasets_inside_datasets_are_found_again(tmp_path: Path) -> None:
    """As plugins/mixture.py has them."""
    plugin = ROOT / "plugins/mixture.py"
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    text = document(old, "adamw", "constant")
    for name in ("one", "two"):
        (old / f"{name}.txt").write_text(TEXT[:3000].replace("4", "5" if name == "two" else "4"))
    mixture = [{"name": "text", "paths": [str(old / f"{name}.txt")]} for name in ("one", "two")]
    data = {"name": "mixture", "datasets": mixture, "weights": [1.0, 1.0]}
    begun = run(load_experiment({**text, "plugins": [str(plugin)], "data": data}), old / "runs", Watcher(("updated", 3)))
    old.rename(new)
    folder = RunFolder(new / begun.run.path.relative_to(old))
    resume(folder.path, observer=Watcher())
    assert folder.later_segments() == []


def test_the_same_text_in_another_file_is_no_change_and_another_text_is(stopped: Stopped, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    (tmp_path / "same.txt").write_text(TEXT[:3000])
    (tmp_path / "other.txt").write_text(TEXT[:3000].replace("4", "5"))
    file = folder.path / "experiment.json"
    edited = json.loads(file.read_text())
    edited["data"]["paths"] = [str(tmp_path / "other.txt")]
    forge(file, edited)
    with pytest.raises(RunError, match=r"cannot be continued exactly, because these changed: the data \("):
        resume(folder.path, observer=Watcher())
    resume(folder.path, overrides=[f'data.paths=["{tmp_path / "same.txt"}"]'], observer=Watcher())
    assert folder.later_segments() == []


def test_a_run_of_another_device_or_another_number_of_threads_can_be_continued_here(
    stopped: Stopped, tmp_path: Path
) -> None:
    folder = stopped(tmp_path)
    file = folder.path / "provenance.json"
    recorded = json.loads(file.read_text())
    missing = "cuda" if not torch.cuda.is_available() else "mps"
    recorded["machine"] |= {"device": missing, "threads": 1}
    forge(file, recorded)
    with pytest.raises(
        RunError, match=f"was trained on {missing}, which is not available here. .*minigpt resume .* --device auto"
    ):
        resume(folder.path, observer=Watcher())
    before = torch.get_num_threads()
    try:
        resume(folder.path, device="cpu", threads=2, observer=Watcher())
    finally:
        torch.set_num_threads(before)
    (line,) = folder.later_segments()
    assert line == f"from update 3 on: the device ({missing} then, cpu now); the number of threads (1 then, 2 now)"


@pytest.mark.parametrize("number", [0, -1, MAX_THREADS + 1, 65536])
def test_a_number_of_threads_that_ends_the_process_is_refused(number: int, stopped: Stopped, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    with pytest.raises(MinigptError, match=rf"threads: found {number}; allowed: 1 to {MAX_THREADS}"):
        train(folder.experiment(), out=tmp_path / "another", threads=number)
    file = folder.path / "provenance.json"
    recorded = json.loads(file.read_text())
    recorded["machine"]["threads"] = number
    forge(file, recorded)
    with pytest.raises(RunError, match="provenance.json is damaged: machine.threads"):
        resume(folder.path, observer=Watcher())


def test_a_change_takes_effect_even_if_its_first_session_was_killed_before_a_save(
    stopped: Stopped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, changes = stopped(tmp_path), ["training.optimizer.weight_decay=0.7"]
    expected = continued_by_hand(folder, changes)
    with monkeypatch.context() as killed:
        killed.setattr(session, "Trainer", lambda *of, **named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            resume(folder.path, overrides=changes, observer=Watcher())
    resume(folder.path, observer=Watcher())
    assert equal(weights(folder), expected)


def test_a_refused_command_changes_nothing(stopped: Stopped, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    folder.metrics.write_bytes(folder.metrics.read_bytes().replace(b"1", b"2"))
    with pytest.raises(RunError, match="metrics.jsonl is damaged or was edited"):
        resume(folder.path, overrides=["training.grad_clip=0.5"], observer=Watcher())
    assert folder.later_segments() == []


def test_an_accepted_edit_that_was_not_trained_with_is_refused_for_generation(stopped: Stopped, tmp_path: Path) -> None:
    folder = stopped(tmp_path)
    file = folder.path / "experiment.json"
    document = json.loads(file.read_text())
    document["model"]["embedding"]["softcap"] = 5.0
    file.write_text(json.dumps(document))
    with pytest.raises(RunError, match=r"model.embedding.softcap"):
        resume(folder.path, accept_changes=True, observer=Watcher())
    with pytest.raises(RunError, match=r"was edited: the run was trained with other values of model.embedding.softcap"):
        open_run(folder.path)
