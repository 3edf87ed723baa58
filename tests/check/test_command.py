"""`minigpt check`, and the check that `minigpt run` makes before it trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.registry import plugins
from tests.conftest import Command

ROOT = Path(__file__).parents[2]


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


def test_a_property_of_another_family_is_refused_with_a_reason(minigpt: Command) -> None:
    code, _, err = minigpt("check", "norm/rmsnorm", "--only", "lossless")
    assert (code, "error: --only lossless: no such property of norm; known: " in err) == (2, True)


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_every_shipped_component_passes(seed: int) -> None:
    command = [sys.executable, "-m", "minigpt", "check", "--all", "--seed", str(seed)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


NEEDS_HEAD = '''
from minigpt import register
from minigpt.components.optimizer.sgd import SGD


@register("optimizer", "needs_head")
class NeedsHead(SGD):
    """Gradient descent for models with a separate head."""

    def build(self, parameters):
        if not any(parameter.role == "head" for parameter in parameters):
            raise ValueError("it trains models with a separate head")
        return super().build(parameters)
'''


@pytest.mark.parametrize(
    ("optimizer", "path"),
    [
        ('"needs_head"', "training.optimizer"),
        ('{"name": "ema", "optimizer": "needs_head"}', "training.optimizer.optimizer"),
        ('{"name": "muon", "rest": "needs_head"}', "training.optimizer.rest"),
    ],
)
def test_an_optimizer_that_refuses_the_parameters_is_one_line_with_its_path(
    minigpt: Command, project: Path, optimizer: str, path: str
) -> None:
    (project / "needs_head.py").write_text(NEEDS_HEAD)
    changes = ["--plugin", "needs_head.py", "--set", "model.norm=rmsnorm", "--set", f"training.optimizer={optimizer}"]
    code, _, error = minigpt("run", "mine.json", *SMALL, *changes, "--no-check")
    assert code == 2
    assert error.strip().endswith(f"{path}: needs_head: it trains models with a separate head")
    assert not (project / "runs").exists()


def test_the_check_leaves_out_the_parameters_that_an_optimizer_refuses(minigpt: Command, project: Path) -> None:
    (project / "needs_head.py").write_text(NEEDS_HEAD)
    code, out, _ = minigpt("check", "needs_head.py", "--only", "groups", "--json")
    (result,) = json.loads(out)["targets"][0]["results"]
    assert (code, result["verdict"]) == (0, "pass")
    assert result["tried"] > 10
