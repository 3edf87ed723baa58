"""Words of the command line become components, families, plugin files and experiments."""

from __future__ import annotations

from pathlib import Path

import pytest

from minigpt.check import check_component, find_targets
from minigpt.errors import CheckError, ExperimentError, PluginError, RegistryError
from minigpt.reading import Reading
from minigpt.registry import REGISTRY
from tests.check.norms import PLUGIN
from tests.conftest import Command

ROOT = Path(__file__).parents[2]


def test_words_name_components_families_plugin_files_and_experiments(plugin: Path) -> None:
    assert [target.label for target in find_targets(["attention/gqa", "attention/gqa"])] == ["attention/gqa"]
    assert len(find_targets(["norm"])) == len(REGISTRY.entries("norm"))
    assert [target.label for target in find_targets([str(plugin)])] == ["norm/halved", "norm/over_time"]
    (experiment,) = find_targets([str(ROOT / "experiments/quickstart.json")], Reading(("model.n_layers=1",)))
    assert experiment.experiment is not None
    assert experiment.experiment.model.n_layers == 1
    everything = sum(len(REGISTRY.entries(family.name)) for family in REGISTRY.families())
    assert len(find_targets([], everything=True)) == everything


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("attention/gqqa", RegistryError, 'did you mean "gqa"'),
        ("attentoin/gqa", CheckError, 'there is no family "attentoin".*did you mean "attention"'),
        ("rmsnorm", CheckError, '"rmsnorm" is not a target.*did you mean norm/rmsnorm'),
        ("atention", CheckError, 'did you mean "attention"'),
        ("nowhere.py", PluginError, "there is no plugin file .*nowhere.py"),
        ("nowhere.json", ExperimentError, "there is no such file"),
    ],
)
def test_the_error_for_an_unknown_word_suggests_a_name(word: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find_targets([word])


def test_plugins_can_be_refused(plugin: Path) -> None:
    for words, files in (([str(plugin)], []), (["norm"], [plugin])):
        with pytest.raises(PluginError, match=r"plugins are refused \(--no-plugins\)"):
            find_targets(words, Reading(plugin_files=tuple(files), allow_plugins=False))


@pytest.mark.slow
def test_a_registered_name_wins_over_a_folder_of_that_name(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process and in worker processes; `./norm/none` names the folder."""
    monkeypatch.chdir(tmp_path)
    for word in ("norm/none", "norm"):
        Path(word).mkdir(parents=True, exist_ok=True)
        Path(word, "__init__.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n{PLUGIN}")
    for words in (["norm/none"], ["norm"], ["norm/none", "norm/rmsnorm", "--no-plugins"]):
        code, out, err = minigpt("check", *words, "--only", "shape", "--jobs", "2")
        assert code == 0, (words, err)
        assert "halved" not in out
        assert not Path("executed").exists(), words
    assert [target.label for target in find_targets(["./norm/none"])] == ["norm/halved", "norm/over_time"]


def test_an_unknown_property_is_reported() -> None:
    with pytest.raises(CheckError, match='there is no property "causalty"; .*did you mean "causality"'):
        check_component("norm", "none", only=["causalty"])
