"""`minigpt new`: the written files work unchanged, and no file is overwritten."""

from __future__ import annotations

import ast
import importlib.util
import json
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from minigpt import build_model, load_experiment
from minigpt.lab.scaffold import ScaffoldError, create
from minigpt.registry import REGISTRY
from tests.conftest import Command
from tests.rounding import assert_formula

ROOT = Path(__file__).parents[2]
FAMILIES = [family.name for family in REGISTRY.families()]
PARTS = [family.name for family in REGISTRY.families() if "dims" in family.receives or "width" in family.receives]
SMALL = ["model.d_model=16", "model.n_heads=2", "model.n_layers=2", "model.block_size=16"]
SHORT = [
    "training.max_iters=3",
    "training.eval_interval=2",
    "training.batch_size=2",
    "sampling.max_new_tokens=20",
    'sampling.prompt="ROMEO"',
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with some of the shipped experiments, and a small corpus."""
    (tmp_path / "experiments").mkdir()
    for name in ("baseline", "quickstart", "hybrid"):
        shutil.copy(ROOT / f"experiments/{name}.json", tmp_path / "experiments")
    (tmp_path / "corpus.txt").write_text("ROMEO: It was the lark, The herald of the morn.\n" * 60)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of all files below a folder, empty folders included."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def a_run(family: str) -> list[str]:
    """Options for a short run, on the corpus unless the family is dataset."""
    changes = [*SMALL, *SHORT]
    if family != "dataset":
        changes.append('data={"name": "text", "paths": ["corpus.txt"]}')
    return [part for change in changes for part in ("--set", change)]


# ------------------------------------------------------------------------------------------------------- what it writes


@pytest.mark.parametrize(
    "family", ["attention", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "attention")]
)
def test_the_written_part_is_checked_trains_and_generates_by_the_printed_commands(
    family: str, project: Path, minigpt: Command
) -> None:
    code, out, err = minigpt("new", family, "mine")
    assert code == 0, err
    commands = [line.split()[1:] for line in out.splitlines() if line.startswith("    minigpt ")]
    check, run, *others = commands
    assert check == ["check", "plugins/mine.py"]
    assert run == ["run", "experiments/mine.json", "--minutes", "2"]
    code, out, err = minigpt(*run[:2], *a_run(family))
    assert code == 0, err
    assert f"the quick part: {family}/mine" in out
    rows = [json.loads(line) for line in Path("runs/mine/seed-1337/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all(0 < row["train_loss"] < 10 for row in rows)
    if family == "dataset":  # rows of ids: there is no text to generate
        assert not others
        return
    generate, compared = others
    assert generate == ["generate", "runs/mine/seed-1337"]
    code, out, err = minigpt(*generate, "ROMEO: ", "--seed", "1")
    assert code == 0, err
    assert len(out) > len("ROMEO: ")
    assert compared == ["run", "experiments/baseline.json", "--minutes", "2"]


@pytest.mark.parametrize("family", PARTS)
def test_a_model_with_the_written_part_decodes_like_the_full_pass(family: str, project: Path) -> None:
    written = create(family, "mine")
    model = build_model(load_experiment(written.experiment, overrides=SMALL), 11).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        tokens = torch.randint(11, (2, 16), generator=torch.Generator().manual_seed(2))
        state = model.new_state(2, 16, torch.float64)
        decoded = torch.cat([model(chunk, state) for chunk in tokens.split([5, 1, 1, 3, 6], dim=1)], 1)
        assert_formula(decoded, model(tokens))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_additional_test_that_it_writes_passes(family: str, project: Path) -> None:
    file = create(family, "mine").test
    spec = importlib.util.spec_from_file_location("written", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    contract, *others = [name for name in vars(module) if name.startswith("test_")]
    assert contract == "test_it_keeps_its_contract"
    assert len(others) == 1
    getattr(module, others[0])()


def pytest_on(*files: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *map(str, files)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0, answer.stdout
    return answer.stdout


def test_the_tests_that_it_writes_run_the_check_and_pass_under_pytest(project: Path) -> None:
    passed = re.search(r"(\d+) passed", pytest_on(create("schedule", "mine").test))
    assert passed
    assert int(passed[1]) >= 3


@pytest.mark.slow
def test_the_tests_that_it_writes_pass_for_every_family(project: Path) -> None:
    pytest_on(*(create(family, f"a_{family}").test for family in FAMILIES))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_written_part_passes_the_whole_check(family: str, project: Path) -> None:
    # In a separate process: torch.compile works neither with the shape checks of these tests nor with warnings as errors.
    command = [sys.executable, "-m", "minigpt", "check", str(create(family, "mine").plugin)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "no property broken" in answer.stdout


def test_the_experiment_differs_from_the_base_in_one_part(project: Path) -> None:
    written = create("schedule", "mine")
    with REGISTRY.temporarily():
        own = load_experiment(written.experiment).to_json()
    assert own.pop("name") == "mine"
    assert own["training"].pop("schedule")["name"] == "mine"
    assert len(own.pop("plugins")) == 1
    create("schedule", "mine", into=project / "again")  # writing a part does not register it in this process
    base = load_experiment("experiments/baseline.json").to_json()
    del base["training"]["schedule"]
    assert {**own, "description": ""} == {key: value for key, value in {**base, "description": ""}.items() if key in own}


def test_an_editor_finds_the_schema_if_it_exists(project: Path) -> None:
    assert "$schema" not in json.loads(create("norm", "first").experiment.read_text())
    shutil.copytree(ROOT / "docs", project / "docs", ignore=shutil.ignore_patterns("results"))
    document = json.loads(create("norm", "second").experiment.read_text())
    assert (project / "experiments" / document["$schema"]).samefile(project / "docs/experiment.schema.json")


@example("norm", "norm")
@example("block", "true")
@given(
    st.sampled_from(FAMILIES),
    st.one_of(
        st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True),
        st.sampled_from(["attention", "feed_forward", "state", "none", "a" * 40, "x__", "n0_0", "tensor"]),
    ),
)
def test_with_any_name_the_files_are_python_whose_class_hides_nothing_that_is_imported(family: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            written = create(family, name, into=Path(folder))
        except ScaffoldError:  # the name of a module or a Python keyword; other tests have these
            assume(False)
        for file in (written.plugin, written.test):
            text = file.read_text()
            assert "my_part" not in text.replace(name, "")
            assert "MyPart" not in text.replace("my_part", "") or name == "my_part"
            assert max(map(len, text.splitlines())) <= 125
            ast.parse(text)
        tree = ast.parse(written.plugin.read_text())
        imported = {
            alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        assert classes
        assert not classes & imported
        assert not any(keyword.iskeyword(each) for each in classes)


# ------------------------------------------------------------------------------------------------------- never over a file


@pytest.mark.parametrize("there", ["plugins/mine.py", "experiments/mine.json", "tests/test_mine.py"])
def test_nothing_is_written_if_one_of_the_files_exists(there: str, project: Path, minigpt: Command) -> None:
    (project / there).parent.mkdir(exist_ok=True)
    (project / there).write_text("mine already")
    before = files_of(project)
    code, out, err = minigpt("new", "norm", "mine")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {there} exists already; nothing was written")
    assert files_of(project) == before


def test_a_dangling_link_counts_as_an_existing_file(project: Path) -> None:
    (project / "plugins").mkdir()
    (project / "plugins/mine.py").symlink_to(project / "elsewhere.py")
    with pytest.raises(ScaffoldError, match="plugins/mine.py exists already; nothing was written. Choose"):
        create("norm", "mine")
    assert not (project / "elsewhere.py").exists()


def test_a_file_that_appears_meanwhile_stays_and_written_files_are_removed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "tests").mkdir()
    (project / "tests/test_mine.py").write_text("another's")
    before = files_of(project)
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    monkeypatch.setattr("minigpt.lab.scaffold._check_test_name", lambda test, folder: None)
    with pytest.raises(ScaffoldError, match="tests/test_mine.py exists already"):
        create("norm", "mine")
    assert files_of(project) == before


def test_written_files_are_removed_if_the_others_cannot_be_written(project: Path, minigpt: Command) -> None:
    (project / "tests").write_text("a file where a folder should be")
    before = files_of(project)
    code, _, err = minigpt("new", "norm", "mine")
    assert code == 2
    assert err.startswith("error: tests")
    assert files_of(project) == before


# ------------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("name", "reason", "better"),
    [
        ("My-Norm", 'lower-case letters, digits and "_"', "my_norm"),
        ("TokenShift", 'lower-case letters, digits and "_"', "token_shift"),
        ("3d", "a letter first", "norm_3d"),
        ("../up", 'lower-case letters, digits and "_"', "up"),
        ("", "a letter first", "my_norm"),
        ("größe", 'lower-case letters, digits and "_"', "gr_e"),
        ("a" * 41, "40 at most", "a" * 35),
        ("mine\n", 'lower-case letters, digits and "_"', "mine"),
        ("lambda", "is a Python keyword", "lambda_norm"),
        ("copy", "is the name of a Python module", "copy_norm"),
        ("torch", "is the name of a Python module", "torch_norm"),
        ("conftest", "a file that pytest takes for tests", "conftest_norm"),
        ("test_mine", "a file that pytest takes for tests", "norm_test_mine"),
        ("mine_test", "a file that pytest takes for tests", "mine_test_norm"),
        ("rmsnorm", 'norm "rmsnorm" is registered already, by ', "my_rmsnorm"),
    ],
)
def test_an_invalid_name_is_refused_with_the_reason_and_a_better_one(
    name: str, reason: str, better: str, project: Path, minigpt: Command
) -> None:
    before = files_of(project)
    code, _, err = minigpt("new", "norm", name)
    assert code == 2
    assert reason in err
    assert f'; how about "{better}"?' in err
    assert files_of(project) == before
    code, _, err = minigpt("new", "norm", better)
    assert code == 0, err


def test_a_name_in_use_is_reported_with_the_file_that_uses_it(project: Path, minigpt: Command) -> None:
    code, _, err = minigpt("new", "attention", "gqa")
    assert code == 2
    assert "components/attention/gqa.py:" in err
    assert "(GroupedQueryAttention)" in err
    code, _, err = minigpt("new", "norm", "gqa")
    assert code == 0, err  # another family's names are free


def test_an_unknown_family_is_reported_with_the_nearest(project: Path, minigpt: Command) -> None:
    before = files_of(project)
    code, _, err = minigpt("new", "atention", "mine")
    assert code == 2
    assert 'unknown family "atention"' in err
    assert 'did you mean "attention"?' in err
    assert files_of(project) == before


def test_a_test_file_of_the_same_module_name_is_reported(project: Path) -> None:
    (project / "tests/unit").mkdir(parents=True)
    (project / "tests/unit/test_mine.py").touch()
    with pytest.raises(ScaffoldError, match="for the same module test_mine"):
        create("norm", "mine")
    (project / "tests/unit/__init__.py").touch()
    create("norm", "mine")


# ------------------------------------------------------------------------------------------------------- what it extends


def test_in_an_empty_folder_it_extends_the_defaults_and_reports_it(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "minigpt", "new", "norm", "mine"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert (
        "it extends no other file, so all settings that it leaves out have the defaults of the documented baseline"
        in answer.stdout
    )
    assert "baseline.json" not in answer.stdout
    document = json.loads((tmp_path / "experiments/mine.json").read_text())
    assert document == {
        "name": "mine",
        "description": "The documented defaults with the norm of plugins/mine.py.",
        "plugins": ["../plugins/mine.py"],
        "model": {"norm": "mine"},
    }
    assert load_experiment(tmp_path / "experiments/mine.json").model.norm.cls.__name__ == "MineNorm"


@pytest.mark.parametrize("into", [".", "lab", "far/away"])
def test_the_base_is_found_from_any_target_folder(into: str, project: Path, minigpt: Command) -> None:
    code, out, err = minigpt("new", "norm", "mine", "--into", into, "--base", "experiments/quickstart.json")
    assert code == 0, err
    assert "extends experiments/quickstart.json" in out
    file = next(project.rglob("mine.json"))
    assert file.parent == project / into / "experiments"
    loaded = load_experiment(file)
    assert (loaded.data.name, loaded.model.norm.name) == ("python-docs", "mine")


def test_paths_are_right_in_folders_that_are_links(project: Path) -> None:
    (project / "kept/deep").mkdir(parents=True)
    (project / "experiments").rename(project / "kept/deep/experiments")
    (project / "experiments").symlink_to(project / "kept/deep/experiments")
    assert load_experiment(create("norm", "mine").experiment).model.norm.name == "mine"


def test_the_run_folder_it_prints_has_the_seed_of_the_base(project: Path, minigpt: Command) -> None:
    (project / "experiments/seven.json").write_text('{"extends": "quickstart.json", "seed": 7}')
    code, out, err = minigpt("new", "norm", "mine", "--base", "experiments/seven.json")
    assert code == 0, err
    assert "minigpt generate runs/mine/seed-7\n" in out


def test_a_missing_base_is_reported_with_the_nearest(project: Path, minigpt: Command) -> None:
    code, _, err = minigpt("new", "norm", "mine", "--base", "experiments/quikstart.json")
    assert code == 2
    assert 'there is no such file; did you mean "quickstart.json"?' in err


@pytest.mark.parametrize(
    ("family", "base", "reason"),
    [
        ("attention", "hybrid.json", "its model.layers choose the attention of every layer"),
        ("position", "hybrid.json", "does not apply bias"),
        ("norm", "broken.json", "not JSON"),
    ],
)
def test_a_base_that_does_not_fit_is_refused_and_nothing_is_written(
    family: str, base: str, reason: str, project: Path, minigpt: Command
) -> None:
    (project / "experiments/broken.json").write_text("{")
    before = files_of(project)
    code, _, err = minigpt("new", family, "mine", "--base", f"experiments/{base}")
    assert code == 2
    assert reason in err
    assert "nothing was written" in err
    assert files_of(project) == before


def test_its_help_does_not_import_torch() -> None:
    code = "import sys; from minigpt.cli import app; app(['new', '--help'], standalone_mode=False); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert answer.stdout.endswith("False\n"), answer.stderr
