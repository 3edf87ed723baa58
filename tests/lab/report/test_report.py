"""Tests of the page: its content, that it is self-contained, and that a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from minigpt.lab.compare.conclusion import found
from minigpt.lab.compare.plan import Settings, make_plan
from minigpt.lab.compare.record import Comparison
from minigpt.lab.compare.tables import remarks
from minigpt.lab.differences import differences
from minigpt.lab.report.content import content_of, content_of_runs, read_content
from minigpt.lab.report.figures import pareto
from minigpt.lab.sealed import seal
from minigpt.run import RunFolder
from minigpt.training import loop
from tests.conftest import Command
from tests.lab.compare.conftest import train_here, writer
from tests.lab.report.conftest import complete

SECTIONS = ["verdicts", "differences", "text", "tuning"]
SECTIONS += ["curves", "cost", "position", "changes", "samples", "runs", "provenance"]


class Quiet:
    """Reports no load from other processes."""

    def seconds(self, *, now: bool) -> float:
        return 0.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small comparison: a variant, a copy of the base, and a variant that diverges."""
    folder = tmp_path_factory.mktemp("compared")
    write = writer(folder)
    diverging = {"training": {"optimizer": {"name": "sgd", "learning_rate": 1e30}, "grad_clip": None}}
    files = [
        write("base"),
        write("variant<b>", name="variant-b", description="<script>alert(1)</script> & a gate", model={"ffn": "glu"}),
        write("same"),
        write("diverging", **diverging),
    ]
    plan = make_plan(files, Settings(noise=False, seeds=3), out=folder / "comparisons", runs=[folder / "runs"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "OtherProcesses", Quiet)
        train_here(plan.grid)
    plan.write(plan.judge())
    complete(plan.folder / "comparison.json")
    return plan.folder


@pytest.fixture
def comparison(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the comparison, as another person might receive it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "base")
    return Path("base")


class Page(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_complete_and_self_contained(comparison: Path, minigpt: Command) -> None:
    code, out, err = minigpt("report", comparison)
    assert code == 0, err
    file = comparison / "report.html"
    assert str(file) in out
    text = file.read_text("utf-8")
    assert len(text) < 3_000_000
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert "script" not in names, "no script, and names are escaped"
    assert [attributes["id"] for tag, attributes in page.tags if tag == "h2"] == SECTIONS
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            link = attributes.get(name) or "#"
            assert link.startswith(("#", "data:")), f"<{tag} {name}={link}> asks the network"
    assert not re.findall(r"@import|url\((?!#)", text)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids)), "ids are unique over all pictures"
    links = {attributes["href"] for _, attributes in page.tags if (attributes.get("href") or "").startswith("#")}
    assert {link.removeprefix("#") for link in links} <= set(ids)
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 8
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    assert names.count("details") == len(pictures), "a table behind every picture"
    words = " ".join(" ".join(page.words).split())
    document = json.loads((comparison / "comparison.json").read_text())
    for variant in document["variants"]:
        assert variant["verdict"] in words
        if variant["difference"]:
            assert f"{variant['difference']['mean']:+.4f}" in words
    assert "equivalent within 0.01" in words
    sentence = found(Comparison.read(comparison / "comparison.json"))[0]
    assert words.index(sentence[1:]) < words.index("Not shown: that it holds beyond one text") < words.index("Verdicts")
    for note in remarks(Comparison.read(comparison / "comparison.json")):
        assert " ".join(note.split()) in words, "cautions, tuning, noise and the ledger are on the page"
    assert {"a seed far from the others", "95 % interval over text", "base again (seeds 8 to 10)"} <= set(page.words)
    assert {"chosen, at an edge", "a trial failed", "smallest difference that 3 seeds find"} <= set(page.words)
    assert "not finite" in words, "the reason why the diverged variant has no loss"
    assert "diverging, seeds 5, 6, 7:" in words, "once for all seeds"
    assert "the joint intervals of all 2 variants are right at the same time in 95 % of comparisons" in words
    assert "95 % interval, joint for 2 variants" in words
    assert "<script>alert(1)</script> & a gate" in words
    assert '"name": "glu"' in words
    assert '"name": "mlp"' in words


def test_curves_are_means_and_ranges_over_seeds(comparison: Path) -> None:
    content = read_content(comparison)
    document = json.loads((comparison / "comparison.json").read_text())
    base = content.variants[0]
    assert base.validation is not None
    losses = [run["loss"] for run in document["variants"][0]["runs"]]
    assert base.validation.steps == (3, 6)
    assert base.validation.tokens == (3 * 64, 6 * 64)
    assert base.validation.mean[-1] == pytest.approx(sum(losses) / 3)
    assert (base.validation.low[-1], base.validation.high[-1]) == (min(losses), max(losses))
    assert base.validation.flops[-1] == pytest.approx(document["variants"][0]["training_flops"])
    assert all(earlier < later for earlier, later in pairwise(base.validation.seconds))
    assert base.training is not None
    assert len(base.training.steps) == 6
    assert len(base.position) == 16
    assert base.sample
    assert content.variants[3].validation is None
    assert content.changes["same"] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"others": 0.5}, "other processes used 50% of the machine's processors while same (seed 6) trained"),
        ({"others": None}, "the load from other processes was not recorded while same (seed 6) trained"),
        ({"machine": "another"}, "the runs were trained on different machines: "),
    ],
)
def test_times_of_a_shared_machine_are_not_drawn(
    comparison: Path, minigpt: Command, changes: dict[str, object], words: str
) -> None:
    file = comparison / "comparison.json"
    document = json.loads(file.read_text())
    document["variants"][2]["runs"][1] |= changes
    file.write_text(json.dumps(seal(document, Comparison.format_number)))
    assert minigpt("report", comparison)[0] == 0
    page = Page((comparison / "report.html").read_text("utf-8"))
    text = " ".join(" ".join(page.words).split())
    assert f"No curve is drawn against seconds, because {words}" in text
    assert f"the loss is not drawn against seconds, because {words}" in text
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert len(labels) == 7
    assert not any("seconds" in (label or "") for label in labels)
    assert text.count("seconds of training") == 0, "also not in the pictures of costs"
    assert text.count("training FLOPs") >= 2


def test_times_come_with_their_spread(comparison: Path) -> None:
    content = read_content(comparison)
    assert content.why_no_times is None
    base = content.variants[0]
    seconds = [run.seconds for run in base.result.finished if run.seconds is not None]
    assert base.result.seconds is not None
    assert (base.result.seconds.low, base.result.seconds.high) == (min(seconds), max(seconds))
    assert base.result.tokens_per_second is not None
    rows = [RunFolder(comparison / run.run).rows() for run in base.result.finished]
    speeds = [row.tokens_per_second for each in rows for row in each]
    assert (
        min(speeds)
        <= base.result.tokens_per_second.low
        <= base.result.tokens_per_second.median
        <= base.result.tokens_per_second.high
    )
    assert base.result.tokens_per_second.high <= max(speeds)
    assert content.variants[3].result.seconds is None, "nothing of it finished"


def test_a_folder_without_a_comparison_or_with_missing_runs_is_refused(
    comparison: Path, minigpt: Command, tmp_path: Path
) -> None:
    code, _, err = minigpt("report", tmp_path)
    assert (code, "is not a run folder: it has no experiment.json" in err) == (2, True)
    code, _, err = minigpt("report", comparison, "--out", tmp_path / "no/page.html")
    assert (code, "there is no folder" in err) == (2, True)
    shutil.rmtree(comparison / "runs/base/seed-6")
    code, _, err = minigpt("report", comparison)
    assert (code, "seed-6 is missing, but base was measured in it" in err) == (2, True)


def test_runs_that_nobody_compared_make_a_page_too(comparison: Path, minigpt: Command) -> None:
    code, _, err = minigpt("report", comparison / "runs/base", comparison / "runs/variant-b/seed-6")
    assert code == 0, err
    text = Path("report.html").read_text("utf-8")
    page = Page(text)
    words = " ".join(" ".join(page.words).split())
    assert [attributes["id"] for tag, attributes in page.tags if tag == "h2"] == [
        section for section in SECTIONS if section not in ("differences", "text", "tuning", "position")
    ]
    assert "not compared" in words
    assert "variant-b/seed-6" in words
    content = content_of_runs([comparison / "runs/base", comparison / "runs/variant-b/seed-6"])
    assert [len(variant.result.finished) for variant in content.variants] == [3, 1]


def test_differences_name_the_settings_and_whole_components() -> None:
    base = {"name": "a", "seed": 1, "model": {"width": 1, "norm": {"name": "x", "eps": 1}, "layers": [1]}}
    other = {"name": "b", "seed": 2, "model": {"width": 1, "norm": {"name": "y"}, "layers": [1, 2], "new": None}}
    assert differences(base, other) == [
        ("model.norm", '{"name": "x", "eps": 1}', '{"name": "y"}'),
        ("model.layers", "[1]", "[1, 2]"),
    ]
    eps = {**base, "model": {**base["model"], "norm": {"name": "x", "eps": 2}}}  # type: ignore[dict-item]
    assert differences(base, eps) == [("model.norm.eps", "1", "2")]


def test_the_front_has_the_points_that_no_other_beats_in_both_numbers() -> None:
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 2.5), (3.0, 1.5), (4.0, 1.0), (2.0, 2.0)]
    assert pareto(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]


def test_a_single_variant_makes_a_page_without_a_comparison(comparison: Path) -> None:
    whole = Comparison.read(comparison / "comparison.json")
    single = whole.model_copy(update={"variants": whole.variants[:1]})
    assert content_of(single, comparison).changes == {}


@pytest.mark.slow
def test_a_browser_shows_every_section_and_finds_no_error(comparison: Path, minigpt: Command, tmp_path: Path) -> None:
    """Needs chromium (Debian: apt-get install chromium)."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser is not None, "no chromium on the path"
    assert minigpt("report", comparison)[0] == 0
    page = (comparison / "report.html").resolve().as_uri()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--enable-logging=stderr"]
    for width in (360, 1200):
        command = [browser, *options, f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}"]
        shown = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in shown.stderr, shown.stderr
        for section in SECTIONS:
            assert f'<h2 id="{section}">' in shown.stdout
        assert shown.stdout.count("<svg") == 8


def test_a_run_that_took_the_place_of_a_measured_one_is_not_drawn(comparison: Path, minigpt: Command) -> None:
    shutil.rmtree(comparison / "runs/same/seed-6")
    shutil.copytree(comparison / "runs/variant-b/seed-6", comparison / "runs/same/seed-6")
    code, _, err = minigpt("report", comparison)
    assert code == 2
    assert "same/seed-6 is not the run that same was measured in; call minigpt compare again" in err


def test_variants_with_different_numbers_of_seeds_are_shown(comparison: Path, minigpt: Command) -> None:
    found = Comparison.read(comparison / "comparison.json")
    base, variant, *others = found.variants
    settings = found.settings.model_copy(update={"most_seeds": 12})
    fewer = variant.model_copy(update={"runs": variant.runs[:2]})
    again = base.model_copy(update={"name": "base again (seeds 8 to 10)"})
    update = {"variants": (base, fewer, *others), "settings": settings, "base_again": again}
    found.model_copy(update=update).write(comparison / "comparison.json")
    code, _, err = minigpt("report", comparison)
    assert code == 0, err
    words = " ".join(" ".join(Page((comparison / "report.html").read_text("utf-8")).words).split())
    assert "variant-b, seed 6" in words
    assert "variant-b, seed 7" not in words
