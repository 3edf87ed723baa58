"""Text of strangers in commands, samples, pages and tables is unchanged and has no control characters."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import pytest
from hypothesis import given

from minigpt.cli.compare import Watching
from minigpt.cli.display import LiveObserver
from minigpt.cli.drawing import Terminal
from minigpt.cli.terminal import write_generated
from minigpt.lab.compare.tables import Table as Comparison
from minigpt.lab.compare.tables import csv_text
from minigpt.printable import as_markdown, as_spreadsheet, printable, printable_line
from minigpt.registry import REGISTRY
from minigpt.run import generating
from minigpt.run.status import Status
from minigpt.system import process
from minigpt.training import PlainObserver
from minigpt.training.observer import Plan
from tests import tiny
from tests.cli.foreign import CONTROLS, MARKUP, RAW, any_text
from tests.conftest import Command
from tests.records import row

PLUGIN = '''
from minigpt import register
from minigpt.contracts import Norm

@register("norm", "odd")
class Odd(Norm):
    """[/x] [bold]b[/bold] :smile: \\x1b]0;title\\x07 is what it says. More.

    Args:
        eps: [/y] \\x1b[31m of it.
    """
    def __init__(self, width: int, *, eps: float = 1.0):
        super().__init__()
    def forward(self, x):
        if x.device.type != "meta":
            raise RuntimeError("cache [/mnt/data] is :full: \\x1b]0;x\\x07")
        return x
'''
ODD = "a [x] [slash] :smile: \x1b]0;t\x07"
ODD_SHOWN = "a [x] [slash] :smile: \\u001b]0;t\\u0007"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder with an odd name, and an experiment with a plugin that raises."""
    folder = tmp_path_factory.mktemp("trained")
    text = "ROMEO: It was the lark, [b]the herald[/b]\x1b]0;t\x07 of the morn.\n" * 40
    changes = {"data": {"errors": "any"}, "training": {"max_iters": 2}, "description": MARKUP + CONTROLS}
    small = tiny.write(folder, text=text, **changes)
    (folder / "odd.py").write_text(PLUGIN)
    (folder / "raises.json").write_text(
        json.dumps({"extends": "small.json", "model": {"norm": "odd"}, "plugins": ["odd.py"], "name": "raises"})
    )
    tiny.train(small, folder / ODD)
    return folder


@pytest.fixture
def working_folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = f"{ODD}/small/seed-1337"
COMMANDS: dict[str, tuple[list[str], str]] = {
    "an experiment": (["show", "small.json"], "[/x] [bold]b[/bold] :smile: `c` $d$ {e}\\u001b[31m"),
    "a run": (["show", RUN], "[/x] [bold]b[/bold] :smile:"),
    "runs": (["runs", ODD], ODD_SHOWN),
    "runs in JSON": (["runs", ODD, "--json"], ODD_SHOWN),
    "a difference": (["diff", RUN, "small.json"], ODD_SHOWN),
    "a missing experiment": (["show", f"{ODD}.json"], f"error: {ODD_SHOWN}.json: "),
    "a missing run": (["generate", f"{ODD}/nothing"], f"error: {ODD_SHOWN}/nothing is not a run folder"),
    "an unknown name": (["show", "small.json", "--set", f"model.norm={ODD}"], f'"{ODD_SHOWN}"'),
    "an unknown option": (["show", f"--{ODD}"], "No such option: --a [x] [slash] :smile: "),
    "a plugin's docstring": (["list", "norm", "--plugin", "odd.py"], "[/x] [bold]b[/bold] :smile: \\u001b]0;title\\u0007"),
    "a parameter's description": (["list", "norm", "--plugin", "odd.py"], "[/y] \\u001b[31m of it."),
    "in Markdown": (["list", "norm", "--plugin", "odd.py", "--markdown"], r"\[/x\] \[bold\]b\[/bold\] :smile: \\u001b"),
    "in a schema": (["schema", "--plugin", "odd.py"], "[/x] [bold]b[/bold] :smile: \\u001b"),
    "an exception in a check": (["check", "odd.py", "--quick"], "cache [/mnt/data] is :full: \\u001b]0;x\\u0007"),
    "an exception in a run": (["run", "raises.json", "--no-check"], "cache [/mnt/data] is :full: \\u001b]0;x\\u0007"),
    "a path that a report is written to": (["report", RUN, "--out", "[x]\x1b.html"], "[x]\\u001b.html ("),
    "a word to check": (["check", ODD], ODD_SHOWN),
    "a comparison's mistake": (["compare", "small.json", f"{ODD}.json", "--plan"], f"{ODD_SHOWN}.json"),
    "the help of the report": (["report", "--help"], "pip install 'minigpt-lab[report]'"),
}


def _letters(text: str) -> str:
    """The text without frames and line breaks of tables, and without the bell character, which rich drops in tables."""
    return "".join(text.split()).replace("│", "").replace("\\u0007", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_foreign_text_literally_and_escaped(
    command: str, minigpt: Command, working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    words, expected = COMMANDS[command]
    _, out, err = minigpt(*words)
    shown = out + err
    assert not RAW.search(shown)
    assert "Traceback" not in shown
    assert _letters(expected) in _letters(shown), shown


def test_a_traceback_is_escaped_too(minigpt: Command, working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIGPT_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="mnt") as error:
        minigpt("run", "raises.json", "--no-check", "--device", "cpu")
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    sys.excepthook(error.type, error.value, error.tb)
    assert "Traceback" in shown.getvalue()
    assert "cache [/mnt/data] is :full: \\u001b]0;x\\u0007" in shown.getvalue()
    assert not RAW.search(shown.getvalue())


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_generated_text_is_escaped_on_a_terminal_and_exact_in_a_file(
    minigpt: Command, working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pieces(*_: object, **__: object) -> Iterator[str]:
        yield from ("a\x1b", "]0;t", "\x07[b]\u202e", ":smile:")

    monkeypatch.setattr(generating, "stream", pieces)
    _, out, _ = minigpt("generate", RUN, "R", "--seed", "1")
    assert out == "Ra\x1b]0;t\x07[b]\u202e:smile:\n"
    screen = _Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    for piece in pieces():
        write_generated(piece)
    assert screen.getvalue() == "a\\u001b]0;t\\u0007[b]\\u202e:smile:"


PLAN = Plan(f"{MARKUP}{CONTROLS}", "f", 1, 2, 0, 1, 1.0, "cpu", "fp32", 1, None, (f"{MARKUP}{CONTROLS}.py",))


@pytest.mark.parametrize("kind", ["plain", "live"])
def test_training_displays_escape_samples_names_and_notes(kind: str) -> None:
    stream = io.StringIO()
    live = LiveObserver(Terminal(file=stream, width=300, force_terminal=True, color_system=None))
    observer = PlainObserver(stream) if kind == "plain" else live
    observer.note(MARKUP + CONTROLS)
    observer.begin(PLAN)
    observer.evaluated(
        row(1, train_loss=1.0, val_loss=1.0, val_perplexity=2.0), True, MARKUP + CONTROLS.replace("\u2028", "")
    )
    observer.end()
    shown = re.sub(r"\x1b\[[0-9?]*[A-Zhl]", "", stream.getvalue()).replace("\r", "")  # the display's own control sequences
    assert not RAW.search(shown)
    assert shown.count(MARKUP) >= 4
    assert "val 1.0000" in shown
    assert "best so far" in shown


def test_a_message_with_brackets_does_not_end_a_comparison() -> None:
    stream = io.StringIO()
    experiment = SimpleNamespace(training=SimpleNamespace(max_iters=2))
    cell: Any = SimpleNamespace(
        name="v [x], seed 1", variant=SimpleNamespace(experiment=experiment), needs_only_measuring=lambda: False
    )
    message = "RuntimeError: cache [/mnt/data] is :full: \x1b]0;x"
    record: Any = SimpleNamespace(outcome=Status.CRASHED, message=message)
    for forced in (False, True):
        with Watching(Terminal(file=stream, width=200, force_terminal=forced)) as progress:
            progress.expect([cell])
            progress.started(cell)
            progress.progressed(cell, 1)
            progress.ended(cell, record)
    assert stream.getvalue().count("v [x], seed 1: crashed: RuntimeError: cache [/mnt/data] is :full: \\u001b]0;x") == 2


def test_a_page_has_no_control_characters_and_its_figures_show_names_literally(
    minigpt: Command, working_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, hidden = Path("$\\frac{}$ <b>\x1b"), Path("_hidden")
    for folder in (odd, hidden):
        shutil.copytree(RUN, folder / "seed-1")
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    code, _, err = minigpt("report", odd, hidden, RUN, "--out", "page.html")
    assert code == 0, err
    page = Path("page.html").read_text("utf-8")
    assert not RAW.search(page)
    assert page.count("$\\frac{}$ &lt;b&gt;\\u001b") >= 3
    assert page.count(" _hidden</text>") >= 3, "matplotlib leaves names with a leading _ out of its legends"
    assert "[/x] [bold]b[/bold] :smile: `c` $d$ {e}\\u001b[31m" in page


def test_settings_of_matplotlib_in_the_working_folder_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("matplotlibrc").write_text("\x1b[31mno key: 1\nfont.size: 33\n")
    code = "import minigpt.lab.report.figures, matplotlib, os; print(matplotlib.rcParams['font.size'], os.getcwd())"
    assert subprocess.run(process.python("-c", code), env=process.environment()).returncode == 0
    assert capfd.readouterr() == (f"10.0 {os.path.realpath(tmp_path)}\n", "")


def test_a_strangers_component_is_no_markup_in_a_page_of_documentation(minigpt: Command, working_folder: Path) -> None:
    plugin = """
from minigpt import register
from minigpt.contracts import Norm

@register("norm", "foreign")
class Foreign(Norm):
    \"\"\"<script>alert(1)</script> [here](https://example.org) $x$.

    Args:
        kind: <img src=x> | *b*
    \"\"\"
    def __init__(self, width: int, *, kind: str = "`|<b>"):
        super().__init__()
    def forward(self, x):
        return x
"""
    Path("foreign.py").write_text(plugin)
    with REGISTRY.temporarily():
        code, out, err = minigpt("list", "norm", "--markdown", "--plugin", "foreign.py")
    assert code == 0, err
    chapter = out.partition("### foreign\n")[2].partition("###")[0]
    assert r"\<script\>alert(1)\</script\> \[here\](https://example.org) \$x\$" in chapter
    assert r'| kind | "\`\|\<b\>" | \<img src=x\> \| \*b\* |' in chapter


@given(any_text)
def test_no_spreadsheet_cell_is_a_formula_and_no_markdown_cell_is_markup(text: str) -> None:
    cell = as_spreadsheet(text)
    assert not cell.lstrip().startswith(("=", "+", "-", "@"))
    assert cell in (printable(text), f"'{printable(text)}")
    assert not re.search(r"(?<!\\)(\\\\)*[`*_\[\]<>|~$]", as_markdown(text))
    assert re.sub(r"\\([\\`*_\[\]<>|~$])", r"\1", as_markdown(text)) == printable_line(text)


def test_a_comparison_as_csv_or_markdown_has_foreign_text_as_text() -> None:
    names = (
        "variant",
        "seed",
        "outcome",
        "loss",
        "best",
        "seconds",
        "tokens_per_second",
        "others",
        "precision",
        "run",
        "message",
    )
    values = (1, "crashed", -0.5, None, None, None, None, None, "+runs/x", "=HYPERLINK(1)")
    run = SimpleNamespace(**dict(zip(names[1:], values, strict=True)))
    comparison: Any = SimpleNamespace(runs=[(SimpleNamespace(name="x"), run)])
    (row,) = csv.DictReader(io.StringIO(csv_text(comparison)))
    assert (row["message"], row["run"], row["loss"]) == ("'=HYPERLINK(1)", "'+runs/x", "-0.5")
    table = Comparison("t", ("variant", "p"), (("a|b <img src=x> [y](z) `c`\nd", "< 0.001"),))
    assert table.markdown().splitlines()[-1] == r"| a\|b \<img src=x\> \[y\](z) \`c\`\\u000ad | < 0.001 |"
