"""The engine of the check: its cases, parameters, targets and reports."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from torch import Tensor, nn

from minigpt import testing
from minigpt.check import (
    Violation,
    check,
    check_component,
    component_target,
    experiment_target,
    find_targets,
    property_names,
)
from minigpt.check.parallel import Options, check_all
from minigpt.check.parameters import alternatives, parameter_sets
from minigpt.check.property import SUITE
from minigpt.contracts import Context, Dims, FeedForward, Norm, NormSpec, State
from minigpt.errors import CheckError, ExperimentError, PluginError, RegistryError
from minigpt.reading import Reading, load_experiment
from minigpt.registry import REGISTRY, plugins, register
from tests.broken import BROKEN, register_broken
from tests.conftest import Command

ROOT = Path(__file__).parents[2]

PLUGIN = '''
import torch
from minigpt import register
from minigpt.contracts import Norm

@register("norm", "over_time")
class OverTime(Norm):
    """Divides by the mean over time: correct for one token, and wrong for two."""
    def __init__(self, width: int):
        super().__init__()
    def forward(self, x):
        return x / (1 + x.abs().mean(1, keepdim=True))

@register("norm", "halved")
class Halved(Norm):
    """Half of its input."""
    scaling = "equivariant"
    def __init__(self, width: int):
        super().__init__()
    def forward(self, x):
        return x / 2
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "norms.py"
    file.write_text(PLUGIN)
    return file


# ------------------------------------------------------------------------------------------------ smallest examples


@pytest.mark.parametrize(
    ("name", "property_name", "smallest"),
    [
        ("broken_mask_off_by_one", "causality", {"params": {}, "time": 2, "n_layers": 1, "training": False}),
        ("broken_window_one_too_long", "reach", {"n_layers": 1, "training": False}),
        ("broken_state_on_module", "states", {"params": {}, "time": 2, "training": False}),
    ],
)
def test_a_failing_case_is_shrunk(name: str, property_name: str, smallest: dict[str, Any]) -> None:
    candidates = [item for item in BROKEN if item.property == property_name and item.family == "attention"]
    item = next((item for item in candidates if item.name == name), candidates[0])
    register_broken(item)
    (result,) = check_component(item.family, item.name, only=[property_name]).results
    assert result.failure is not None
    assert smallest.items() <= result.failure.example.items()


def test_a_failure_that_only_a_fixed_case_shows_is_reported_with_that_case() -> None:
    @register("ffn", "long_leak")
    class LongLeak(FeedForward):
        """Leaks beyond 100 tokens."""

        def __init__(self, dims: Dims):
            super().__init__()
            self.map = nn.Linear(dims.d_model, dims.d_model)

        def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
            return self.map(x) + (x.mean(1, keepdim=True) if x.shape[1] > 100 else 0)

    (result,) = check_component("ffn", "long_leak", only=["causality"]).results
    assert result.failure is not None
    assert result.failure.example["time"] > 100


# ------------------------------------------------------------------------------------------------------- parameters


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Shape(BaseModel):
    kind: Literal["round"]
    size: Annotated[int, Field(gt=2)]


@register("norm", "many_knobs")
class ManyKnobs(Norm):
    """Every kind of parameter."""

    def __init__(
        self,
        width: int,
        *,
        needed: Annotated[int, Field(gt=0)],
        flag: bool = True,
        count: Annotated[int, Field(ge=5, le=6)] = 5,
        maybe: Annotated[float, Field(gt=0, lt=1)] | None = None,
        word: Literal["a", "b"] = "a",
        colour: Colour = Colour.RED,
        inner: NormSpec = "rmsnorm",  # type: ignore[assignment]
        shape: Shape | None = None,
        pair: tuple[float, float] = (0.5, 0.5),
        several: Annotated[list[int], Field(min_length=1)] = [1, 2],
        chosen: Annotated[float, Field(examples=[77.0])] = 1.0,
    ):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


REGISTRY.remove("norm", "many_knobs")


@pytest.mark.parametrize(
    ("name", "values", "beginning"),
    [
        ("needed", {1, 2}, []),
        ("flag", {False}, [False]),
        ("count", {6}, [6]),
        ("maybe", {0.5}, [0.5]),
        ("word", {"b"}, ["b"]),
        ("colour", {"blue"}, ["blue"]),
        ("inner", {"layernorm", "none"}, []),
        ("shape", set(), [{"kind": "round", "size": 4}]),
        ("pair", set(), [[0.75, 0.5]]),
        ("several", set(), [[2, 2]]),
        ("chosen", {77.0}, [77.0]),
    ],
)
def test_values_are_derived_from_the_schema(name: str, values: set[Any], beginning: list[Any]) -> None:
    register("norm", "many_knobs")(ManyKnobs)
    entry = REGISTRY.entry("norm", "many_knobs")
    derived = alternatives(entry)[name]
    assert derived[: len(beginning)] == beginning
    assert all(value in derived for value in values)
    for value in derived:
        entry.validate({"needed": 1, name: value})
        default = entry.params.model_fields[name].default
        assert value != default
        assert not isinstance(default, enum.Enum) or value != default.value


def test_every_shipped_parameter_has_a_value_to_try() -> None:
    for family in REGISTRY.families():
        for entry in REGISTRY.entries(family.name):
            sets = parameter_sets(component_target(family.name, entry.name))
            for name, values in alternatives(entry).items():
                assert values, f"{family.name}/{entry.name}: {name}"
                assert entry.params.model_fields[name].is_required() or any(name in params for params in sets)


def test_a_required_parameter_without_a_value_is_reported() -> None:
    @register("norm", "opaque")
    class Opaque(Norm):
        """Requires a parameter without a known value."""

        def __init__(self, width: int, *, table: dict[str, int]):
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x

    report = check_component("norm", "opaque", quick=True)
    assert report.verdict == "untried"
    assert "table" in report.results[0].note


# ----------------------------------------------------------------------------------------------------------- targets


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


# ------------------------------------------------------------------------------------------------- whole experiments


def test_an_experiment_is_checked_as_composed() -> None:
    layers = [{"attention": "short_conv", "position": "none"}, {"attention": "mha", "ffn": "glu", "block": "sandwich"}]
    model = {"d_model": 16, "n_heads": 2, "n_layers": 2, "block_size": 24, "norm": "rmsnorm", "position": "rope"}
    experiment = load_experiment({"model": {**model, "layers": layers}})
    tried = [
        "shape",
        "causality",
        "gradient",
        "decoding",
        "liveness",
    ]  # without the slow compilation, which scripts/check covers
    report = check(experiment_target(experiment, "hybrid"), only=tried, examples=1)
    assert report.verdict == "pass", [result.failure for result in report.failures]
    assert {result.property for result in report.results} == set(tried)


def test_a_leak_in_a_part_of_an_experiment_is_found() -> None:
    @register("norm", "over_all")
    class OverAll(Norm):
        """Divides by the mean over time and width."""

        def __init__(self, width: int):
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x / (1 + x.abs().mean((-1, -2), keepdim=True))

    small = {"d_model": 8, "n_heads": 2, "n_layers": 2, "block_size": 12, "norm": "over_all"}
    experiment = load_experiment({"model": small})
    report = check(experiment_target(experiment, "mine"), only=["causality"])
    failure = report.results[0].failure
    assert failure is not None
    assert failure.example == {"time": 2, "batch": 2, "training": False, "seed": 0}


# ------------------------------------------------------------------------------------------------------ command line


def test_the_command_reports_what_breaks_how_to_reproduce_it_and_an_exit_code(minigpt: Command, plugin: Path) -> None:
    code, out, _ = minigpt("check", str(plugin), "--only", "causality")
    assert code == 1
    assert "norm/over_time breaks causality: No output depends on later tokens." in out
    assert "found:            output 0 changes when token 1 and later ones change" in out
    again = next(line for line in out.splitlines() if "reproduce:" in line).partition("minigpt ")[2]
    assert minigpt(*again.split())[0] == 1
    assert minigpt("check", "norm/halved", "--plugin", str(plugin), "--only", "causality", "--only", "scaling")[0] == 0


def test_the_command_prints_json(minigpt: Command, plugin: Path) -> None:
    code, out, _ = minigpt("check", str(plugin), "--only", "causality", "--json", "--seed", "3", "--no-thorough")
    document = json.loads(out)
    assert code == 1
    assert (document["verdict"], document["seed"]) == ("fail", 3)
    by_name = {target["target"]: target for target in document["targets"]}
    assert by_name["norm/halved"]["verdict"] == "pass"
    (result,) = by_name["norm/over_time"]["results"]
    assert result["failure"]["example"]["time"] == 2
    assert result["failure"]["size"] > 0


def test_a_target_that_cannot_be_checked_gives_exit_code_2(minigpt: Command, tmp_path: Path) -> None:
    assert minigpt("check", "nothing")[0] == 2
    assert minigpt("check")[0] == 2
    code, out, _ = minigpt("check", "dataset/tinyshakespeare")
    assert code == 2
    assert "minigpt data fetch tinyshakespeare" in " ".join(out.split())
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    code, _, error = minigpt("check", str(broken))
    assert code == 2
    assert "ZeroDivisionError" in error


def test_the_quick_part_omits_slow_properties(minigpt: Command) -> None:
    code, out, _ = minigpt("check", "norm/rmsnorm", "--quick", "--json")
    assert code == 0
    target = json.loads(out)["targets"][0]
    assert {"shape", "causality", "gradient", "decoding"} <= {result["property"] for result in target["results"]}
    assert "compile" not in {result["property"] for result in target["results"]}


SMALL = [
    *("--set", "model.d_model=16", "--set", "model.n_heads=2", "--set", "model.n_layers=1", "--set", "training.max_iters=2"),
    *("--set", "model.block_size=16", "--set", 'data={"name":"text","paths":["text.txt"]}', "--threads", "1"),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("To be, or not to be. " * 80)
    (tmp_path / "mine.json").write_text(json.dumps({"plugins": ["norms.py"], "model": {"norm": "halved"}}))
    return tmp_path


def test_a_run_refuses_a_plugin_that_leaks_and_trains_it_with_no_check(minigpt: Command, project: Path) -> None:
    leaking = ["--set", "model.norm=over_time"]
    code, out, error = minigpt("run", "mine.json", *SMALL, *leaking)
    assert code == 1
    assert "norm/over_time breaks causality" in error
    assert "mine.json breaks causality" in error
    assert "not trained" in error
    assert not (project / "runs").exists()
    code, out, error = minigpt("run", "mine.json", *SMALL, *leaking, "--no-check")
    assert code == 0, error
    assert "checked" not in out


def test_a_run_checks_a_plugin_quickly_and_shipped_parts_with_check(minigpt: Command, project: Path) -> None:
    code, out, error = minigpt("run", "mine.json", *SMALL)
    assert code == 0, error
    assert "the quick part: norm/halved, mine.json" in out
    shipped = ["--set", "model.norm=rmsnorm", "--name", "shipped"]
    code, out, error = minigpt("run", "mine.json", *SMALL, *shipped, "--no-check")
    assert "checked" not in out
    code, out, error = minigpt("run", "mine.json", *SMALL, *shipped, "--check", "--fresh")
    assert code == 0, error
    assert "in full: mine.json" in out


def test_no_plugins_also_excludes_installed_plugins(
    minigpt: Command, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "load_installed", lambda: pytest.fail("an installed plugin would be executed"))
    (project / "plain.json").write_text("{}")
    code, _, err = minigpt("run", "plain.json", *SMALL, "--no-plugins")
    assert code == 0, err
    assert minigpt("check", "norm/rmsnorm", "tokenizer/char", "--only", "shape", "--only", "fitting", "--no-plugins")[0] == 0


def test_checks_in_parallel_processes_give_the_same_reports(plugin: Path) -> None:
    targets = find_targets(["norm/rmsnorm", str(plugin)])
    options = Options(only=("causality", "scaling"))
    serial, parallel = check_all(targets, options), check_all(targets, options, jobs=2)
    assert [report.target for report in serial] == [report.target for report in parallel]
    assert [report.verdict for report in serial] == [report.verdict for report in parallel] == ["pass", "pass", "fail"]
    assert [r.failure for report in serial for r in report.results] == [
        r.failure for report in parallel for r in report.results
    ]


def test_a_plugin_edited_during_the_check_is_not_executed_in_other_processes(minigpt: Command, tmp_path: Path) -> None:
    file, executed = tmp_path / "norms.py", tmp_path / "executed"
    edited = f"{PLUGIN}\nimport os\nos.mkdir({str(executed)!r})\n"
    file.write_text(f"{PLUGIN}\nfrom pathlib import Path\nPath({str(file)!r}).write_text({edited!r})\n")
    code, out, err = minigpt("check", file, "--only", "shape", "--jobs", "2")
    assert (code, out) == (2, "")
    assert f"error: not executed: {file} was edited meanwhile (SHA-256 {plugins.fingerprint(file)}; " in err
    assert len([line for line in err.splitlines() if line and not line.startswith("plugin: ")]) == 1
    assert not executed.exists()


# ----------------------------------------------------------------------------------------------------------- pytest


def test_a_package_gets_a_case_for_each_property(plugin: Path) -> None:
    ran = []

    @testing.conformance("norm", "halved", plugin=plugin)
    def test_mine() -> None:
        """Mine."""
        ran.append(True)

    (mark,) = test_mine.pytestmark  # type: ignore[attr-defined]
    assert list(mark.args[1]) == property_names("norm", thorough=False)
    test_mine(property_name="causality")
    assert ran == [True]
    with pytest.raises(pytest.skip.Exception, match="nothing to try"):
        test_mine(property_name="knobs")
    with pytest.raises(
        pytest.fail.Exception, match=r"norm/over_time breaks causality(?s:.*)usual cause: is the mask strict"
    ):
        testing.conformance("norm", "over_time", plugin=plugin)(test_mine)(property_name="causality")


def test_all_properties_can_be_asserted_at_once(plugin: Path) -> None:
    with pytest.raises(AssertionError, match="norm/over_time breaks causality"):
        testing.assert_conforms("norm", "over_time", plugin=plugin)


def test_every_property_states_itself_in_a_sentence() -> None:
    for prop in SUITE:
        assert prop.says.endswith("."), prop.name
        assert prop.families
    with pytest.raises(TypeError, match="cause"):
        Violation("without a cause")  # type: ignore[call-arg]


# ------------------------------------------------------------------------------------------------------------- slow


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_every_shipped_component_passes(seed: int) -> None:
    command = [sys.executable, "-m", "minigpt", "check", "--all", "--seed", str(seed)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
