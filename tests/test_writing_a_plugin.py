"""docs/writing-a-plugin.md, executed as written (with shorter runs): its edits, commands, files, tables and outputs."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import typer
from typer.core import TyperGroup

from minigpt import build_model, contracts, load_experiment
from minigpt.check import check_component, property_names
from minigpt.check.property import SUITE
from minigpt.check.targets import PARTS_OF_A_MODEL
from minigpt.cli import app
from minigpt.lab.scaffold import create
from minigpt.registry import REGISTRY, plugins
from tests.page import PAGE, ROOT, SMALL, Clone, assert_shown, edit, section, table


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    for folder in ("experiments", "plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "corpus.txt").write_text("".join(f"The square of {n} is {n * n}.\n" for n in range(500)))
    return Clone(tmp_path, tmp_path / "site")


@pytest.fixture
def sharp(clone: Clone) -> Clone:
    """The folder after the section "Five minutes", which later sections change."""
    create("attention", "sharp", into=clone.root, base=clone.root / "experiments/quickstart.json")
    (diff,) = (block for block in section("Five minutes") if block.language == "diff")
    clone.follow(diff)
    clone.edited = clone.plugin.read_text("utf-8")
    return clone


# ----------------------------------------------------------------------------------------------------------- the path


@pytest.mark.slow
def test_from_nothing_to_a_compared_variant(clone: Clone) -> None:
    """new, edit, check, run, generate; then the control and the baseline, with the same seed."""
    for block in section("Five minutes"):
        clone.follow(block)
    assert (clone.root / "tests/test_sharp.py").is_file()
    run = clone.root / "runs/sharp/seed-1"
    assert (run / "plugins/sharp.py").read_bytes() == clone.plugin.read_bytes()
    assert "growth" in clone.plugin.read_text("utf-8")
    generated = clone.answers[-1]
    assert generated.command.startswith("minigpt generate")
    assert "\nThe " in generated.printed
    for block in section("Comparing honestly"):
        clone.follow(block)
    rows = {name: last_row(clone.root / f"runs/{name}/seed-1") for name in ("base", "control", "sharp")}
    assert len({row["tokens"] for row in rows.values()}) == 1
    assert len({row["val_loss"] for row in rows.values()}) == 3
    experiments = [
        json.loads((clone.root / f"runs/{name}/seed-1/experiment.json").read_text("utf-8")) for name in ("control", "sharp")
    ]
    assert [each["model"]["attention"]["growth"] for each in experiments] == [0.0, 0.1]
    for each in experiments:
        del each["name"], each["model"]["attention"]["growth"]
    assert experiments[0] == experiments[1]


def last_row(run: Path) -> dict[str, float]:
    return dict(json.loads((run / "metrics.jsonl").read_text("utf-8").splitlines()[-1]))


@pytest.mark.slow
def test_a_broken_plugin_is_reported_and_trains_only_with_the_option(sharp: Clone) -> None:
    runs = sharp.root / "runs"
    left = []
    for block in section("When a check fails"):
        sharp.follow(block)
        left += [runs.is_dir()] if block.language == "bash" and "run" in block.text else []
    assert left == [False, True]
    assert [path.name for path in runs.iterdir()] == ["leaks"]
    assert last_row(runs / "leaks/seed-2")["step"] == 3


def test_the_mistake_in_decoding_trains_like_the_right_version(sharp: Clone) -> None:
    """As the page says: no loss distinguishes them."""
    *_, mistake = (block for block in section("When a check fails") if block.language == "diff")
    outputs = []
    for text in (sharp.edited, edit(sharp.edited, mistake.text)):
        sharp.plugin.write_text(text, "utf-8")
        torch.manual_seed(0)
        model = build_model(load_experiment(sharp.root / "experiments/sharp.json", overrides=SMALL), vocab_size=7).eval()
        outputs.append(model(torch.arange(28).view(2, 14) % 7))
    assert torch.equal(*outputs)
    assert text != sharp.edited


@pytest.mark.slow
def test_its_batching_is_written_checked_and_trained(clone: Clone) -> None:
    new, listing, *rest = section("Batching")
    clone.follow(new)
    assert listing.text in (clone.root / "plugins/curriculum.py").read_text("utf-8")
    for block in rest:
        clone.follow(block)
    assert (clone.root / "runs/curriculum/seed-1/metrics.jsonl").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "name"), [("An embedding", "smear"), ("An objective", "unsure"), ("An init", "by_inputs")]
)
def test_its_other_families_of_a_model_are_written_checked_and_trained(title: str, name: str, clone: Clone) -> None:
    new, listing, *rest = section(title)
    clone.follow(new)
    assert listing.text in (clone.root / f"plugins/{name}.py").read_text("utf-8")
    for block in rest:
        clone.follow(block)
    assert last_row(clone.root / f"runs/{name}/seed-1")["step"] == 3


@pytest.mark.slow
def test_a_package_is_found_by_its_entry_point_checked_and_tests_itself(clone: Clone) -> None:
    for block in section("Tests and packages"):
        clone.follow(block)
    _, checked, tested = clone.answers
    report = json.loads(checked.printed)
    (target,) = report["targets"]
    assert (report["verdict"], target["target"]) == ("pass", "norm/peak")
    assert [result["property"] for result in target["results"]] == property_names("norm", thorough=False)
    assert set(target["results"][0]) >= {"property", "verdict", "tried", "failure"}
    # All but one: the norm has no parameters.
    assert f"{len(property_names('norm', thorough=False)) - 1} passed, 1 skipped" in tested.printed


@pytest.mark.slow
def test_a_trained_run_is_sampled_with_every_kind_of_sampler(clone: Clone) -> None:
    texts = []
    for block in section("A sampler"):
        clone.follow(block)
        if block.language == "bash":
            texts += [answer.printed.splitlines()[-1] for answer in clone.answers if "generate" in answer.command]
    assert len(texts) == 3
    assert all(text.startswith("The ") for text in texts)


def test_its_example_of_parameters_keeps_its_contract(clone: Clone) -> None:
    (block,) = section("Parameters")
    clone.follow(block)
    plugins.load_file(clone.root / "plugins/normed.py")
    assert set(REGISTRY.entry("ffn", "normed").descriptions) == {"hidden", "activation", "norm"}
    report = check_component("ffn", "normed", only=["shape", "tokenwise", "liveness", "knobs"])
    assert [(result.property, result.verdict) for result in report.results if result.verdict != "pass"] == []
    assert next(result.tried for result in report.results if result.property == "knobs") == 3


# ----------------------------------------------------------------------------------------------------------- the page


def test_every_command_of_the_page_is_in_a_section_that_is_executed_above() -> None:
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    with_commands = [title for title in titles if any(block.language == "bash" for block in section(title))]
    assert with_commands == [
        "Five minutes",
        "When a check fails",
        "Comparing honestly",
        "An embedding",
        "An objective",
        "An init",
        "Batching",
        "A sampler",
        "Tests and packages",
    ]
    assert len(re.findall("^```bash", PAGE, re.MULTILINE)) == len(re.findall("```bash", PAGE)) == 19


def test_every_command_and_option_it_names_exists() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    options = {option for command in group.commands.values() for each in command.params for option in each.opts}
    options |= {option for command in group.commands.values() for each in command.params for option in each.secondary_opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) <= options
    assert set(re.findall(r"`minigpt ([a-z]+)", PAGE)) <= set(group.commands)


def test_its_families_are_all_families() -> None:
    rows = [(row[0].strip("`"), tuple(re.findall(r"`(\w+)`", row[1]))) for row in table("Families")]
    assert rows == [(family.name, family.receives) for family in REGISTRY.families()]
    for family, called, given in ((row[0].strip("`"), row[2], row[3] + row[4]) for row in table("Families")):
        base = REGISTRY.family(family).base
        for method, arguments in re.findall(r"`(\w+)\(([^`]*)\)`", called):
            names = [name.split()[0] for name in re.sub(r"\[.*?\]", "", arguments).split(",") if name]
            assert list(inspect.signature(getattr(base, method)).parameters)[1:] == names, (family, method)
        for method in re.findall(r"`(\w+_json)`", given):
            assert hasattr(base, method)


def test_its_properties_are_all_properties() -> None:
    every, parts = {family.name for family in REGISTRY.families()}, set(PARTS_OF_A_MODEL)
    held: dict[str, list[str]] = {family: [] for family in (*every, "experiment", "run")}
    rows = table("What each family must satisfy")
    for (name, of, says), prop in zip(rows, SUITE, strict=True):
        families = every if of == "every family" else {*parts, "experiment"} if of == "parts" else set(of.split(", "))
        assert name == f"`{prop.name}`" + " •" * bool(prop.quick)
        assert says == prop.says
        for family in families:
            held[family].append(prop.name)
    assert held == {family: property_names(family) for family in held}


FACTORS = {"score_factor", "residual_factor", "logit_factor"}
DEVIATIONS = {"matrix_std", "residual_std"}
INSTRUCTIONS = {"final_norm", "uses_documents", "needs_adaptive"}


def test_its_promises_are_attributes_of_the_contracts() -> None:
    rows = table("Promises")
    for promise, family, default, _, by in ([cell.strip("`") for cell in row] for row in rows):
        for each in PARTS_OF_A_MODEL if family == "parts" else (family,):
            assert repr(getattr(REGISTRY.family(each).base, promise)) == default
            assert by in property_names(each)
    assert contracts.Block.final_norm is True
    assert contracts.Component.elementwise == frozenset()
    assert contracts.Embedding.roles == {}
    assert {getattr(contracts.Init, name) for name in FACTORS} == {1.0}
    own = {
        name
        for base in (family.base for family in REGISTRY.families() if family.name in {row[1].strip("`") for row in rows})
        for name in {**inspect.get_annotations(base), **({"uses": None} if base is contracts.Attention else {})}
    }
    assert own == {row[0].strip("`") for row in rows if row[1] != "parts"} | INSTRUCTIONS | FACTORS | DEVIATIONS


def test_its_state_equals_the_plugin_it_names() -> None:
    source = (ROOT / "plugins/token_shift.py").read_text("utf-8")
    blocks = section("Decoding")
    assert len(blocks) == 2
    for block in blocks:
        assert block.text in source


def test_its_worked_plugins_are_all_plugins() -> None:
    listed = {}
    for link, family, *_ in table("Worked plugins"):
        name = re.fullmatch(r"\[(\w+)\]\(\.\./plugins/\1\.py\)", link)
        assert name, link
        listed[name[1]] = family
        assert (ROOT / "experiments" / f"{name[1]}.json").is_file()
    sources = {file.stem: file.read_text("utf-8") for file in (ROOT / "plugins").glob("*.py")}
    registered = {name: re.findall(r'@register\("(\w+)", "(\w+)"\)', source) for name, source in sources.items()}
    assert registered == {name: [(family, name)] for name, family in listed.items()}


def test_its_links_have_targets() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_an_output_that_was_not_printed_fails() -> None:
    """The comparison of the page with the commands can fail."""
    assert_shown("a 1 …\n b 2.5", "a    17 and more\nb 3e-05, then 4")
    for shown in ("a 1 b", "b 2.5 … a 1", "a x"):
        with pytest.raises(AssertionError, match="the page shows"):
            assert_shown(shown, "a 17 and more\nb 3e-05, then 4")
    with pytest.raises(AssertionError, match="does not have this"):
        edit("one\ntwo\n", " one\n-three\n+four\n")
