"""How text is drawn does not belong to a run's identity: neither the settings nor the sampler's code."""

from __future__ import annotations

from pathlib import Path

import pytest

from minigpt.reading import load_experiment
from minigpt.run.sources import Sources
from minigpt.training import resume
from tests import tiny
from tests.training.conftest import Watcher, run

PLUGIN = '''
from minigpt import register
from minigpt.contracts import Sampler

@register("sampler", "plain")
class Plain(Sampler):
    """The softmax."""

    def probabilities(self, logits, ids, memory):
        return logits.double().softmax(-1)
'''


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.py").write_text(PLUGIN)


@pytest.mark.parametrize(
    "sampling",
    [{"sampler": "mirostat"}, {"sampler": {"name": "repetition_penalty", "sampler": "mirostat"}}, {"sampler": "plain"}, {"stop": ["."]}],
    ids=str,
)  # fmt: skip
def test_runs_that_differ_only_in_sampling_have_the_same_identity(sampling: dict[str, object], tmp_path: Path) -> None:
    identities = []
    for number, changes in enumerate(({}, {"sampling": sampling, "plugins": ["plain.py"]})):
        folder = run(load_experiment(tiny.write(tmp_path, **changes)), tmp_path / str(number)).run
        identities.append(folder.identity().digest())
        assert not [each for each in folder.provenance().components if each.component.startswith("sampler/")]
    assert identities[0] == identities[1]


def test_a_run_is_continued_exactly_after_its_sampler_was_edited(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, plugins=["plain.py"], sampling={"sampler": "plain"})
    part = run(load_experiment(file), tmp_path / "runs", Watcher(("updated", 2))).run
    copied = part.path / "plugins" / "plain.py"
    assert copied.read_text() == PLUGIN
    copied.write_text(PLUGIN.replace("logits.double()", "(2 * logits.double())"))
    assert resume(part.path, trust=True, observer=Watcher()).status == "finished"
    assert part.later_segments() == []


def test_a_shipped_sampler_is_no_part_of_the_training_code() -> None:
    core = Sources().core
    assert "minigpt.model.decoding" in core
    assert not [module for module in core if module.startswith("minigpt.components.sampler")]
