"""Keys that have moved: one line for a person, and no line for a recorded run."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from minigpt.errors import ExperimentError
from minigpt.experiment import Experiment
from minigpt.reading import load_experiment, load_recorded, migrated
from minigpt.reading.moved import MOVED, Moved

OLD = {"prompt": "a", "temperature": 0.5, "top_k": 3, "top_p": None, "min_p": 0.1}
NOW = {"prompt": "a", "sampler": {"name": "filtered", "temperature": 0.5, "top_k": 3, "top_p": None, "min_p": 0.1}}


@pytest.mark.parametrize("key", ["temperature", "top_k", "top_p", "min_p"])
def test_a_file_with_an_old_key_is_refused_with_its_new_path(key: str, tmp_path: Path) -> None:
    file, child = tmp_path / "mine.json", tmp_path / "child.json"
    file.write_text(json.dumps({"sampling": {key: OLD[key]}}))
    child.write_text(json.dumps({"extends": "mine.json"}))
    line = f"sampling.{key} has moved to sampling.sampler.{key}"
    for source in (file, child):
        with pytest.raises(ExperimentError) as refused:
            load_experiment(source)
        assert str(refused.value) == f"{file}: {line}"
    with pytest.raises(ExperimentError) as refused:
        load_experiment({"sampling": {key: OLD[key]}})
    assert str(refused.value) == f"experiment: {line}"
    with pytest.raises(ExperimentError) as refused:
        load_experiment({}, overrides=[f"sampling.{key}=1"])
    assert str(refused.value) == f"--set: {line}"


def test_every_old_key_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError) as refused:
        load_experiment({"sampling": OLD})
    assert len(str(refused.value).splitlines()) == 4


def test_a_record_is_read_with_each_value_in_its_present_place(tmp_path: Path) -> None:
    document = {"name": "old", "sampling": OLD, "model": {"d_model": 48}}
    before = copy.deepcopy(document)
    assert migrated(document) == {"name": "old", "sampling": NOW, "model": {"d_model": 48}}
    assert document == before
    assert migrated(migrated(document)) == migrated(document)
    file = tmp_path / "experiment.json"
    file.write_text(json.dumps(document))
    for read in (load_recorded, load_experiment):  # the name makes it a record, wherever it is
        experiment = read(file)
        assert experiment.sampling.sampler.to_json() == NOW["sampler"]
        assert experiment.sampling.prompt == "a"


@pytest.mark.parametrize("sampling", [None, 3, [], {}, {"prompt": "a"}, NOW])
def test_a_record_without_old_keys_is_not_changed(sampling: Any) -> None:
    assert migrated({"sampling": sampling}) == {"sampling": sampling}
    assert migrated({}) == {}


def test_every_entry_leads_to_a_setting_and_from_none() -> None:
    resolved: Any = load_experiment({}).to_json()
    for each in MOVED:
        assert not _has(resolved, each.old), "an old path is free"
        *parents, key = each.new.split(".")
        section = resolved
        for parent in parents:
            section = section[parent]
        assert key in section
        assert each.component == section.get("name")
    assert set(Experiment.model_fields) >= {each.old.split(".")[0] for each in MOVED}


def _has(document: Any, path: str) -> bool:
    for key in path.split("."):
        if key not in document:
            return False
        document = document[key]
    return True


def test_a_key_may_also_move_between_sections_without_a_component(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minigpt.reading.moved.MOVED", (Moved("model.old", "training.part.new"), Moved("top", "model.top")))
    document = {"model": {"old": 1, "kept": 2}, "top": [3], "training": {"part": {"name": "x"}}}
    assert migrated(document) == {"model": {"kept": 2, "top": [3]}, "training": {"part": {"name": "x", "new": 1}}}
