"""Lines and drawings on a terminal: no markup is read, and no control character is printed raw."""

from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import minigpt as package
from minigpt.cli.drawing import Terminal, column, terminal
from minigpt.cli.terminal import say, warn
from minigpt.printable import printable, printable_line
from minigpt.system.files import json_bytes
from tests.cli.foreign import CONTROLS, ESCAPED, MARKUP, RAW, any_text

SOURCE = Path(package.__file__).parent


@given(any_text, any_text)
def test_printed_text_has_no_control_characters_and_keeps_everything_else(one: str, other: str) -> None:
    shown = printable(one)
    assert not RAW.search(shown)
    assert shown == one or RAW.search(one)
    assert printable(one + other) == shown + printable(other), "text may arrive in pieces"
    assert "\n" not in printable_line(one)


@given(st.recursive(any_text | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(any_text, inner)))
def test_printable_json_has_the_same_value(value: Any) -> None:
    assert json.loads(printable(json.dumps(value, ensure_ascii=False))) == value
    assert json.loads(json_bytes(value)) == value
    assert not RAW.search(json_bytes(value).decode("utf-8"))


ALLOWED = {"terminal.py": ("print", "sys.stdout.write"), "drawing.py": ("TextColumn",)}
PRINTING = (
    "print",
    "input",
    "typer.echo",
    "typer.secho",
    "click.echo",
    "rich.print",
    "sys.stdout.write",
    "sys.stderr.write",
)
DRAWING = ("Console", "TextColumn", "Text.from_markup", "Text.from_ansi")


def test_the_commands_print_in_one_place() -> None:
    violations = []
    for file in (SOURCE / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in (*PRINTING, *DRAWING):
                violations += [(file.name, name)] if name not in ALLOWED.get(file.name, ()) else []
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                violations += [(file.name, tag) for tag in re.findall(r"\[/(?:bold|dim|red|green|yellow)\]", node.value)]
    assert violations == []


def test_no_help_text_is_read_as_markup() -> None:
    for file in (SOURCE / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Typer":
                assert "rich_markup_mode=None" in ast.unparse(node), file


@pytest.mark.parametrize("write", [say, warn])
def test_lines_are_escaped(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write(MARKUP + CONTROLS)
    assert "".join(capsys.readouterr()) == MARKUP + ESCAPED + "\n"


def _drawn(thing: Any, **options: Any) -> str:
    stream = io.StringIO()
    Terminal(file=stream, width=200, **options).print(thing)
    return stream.getvalue()


def _table(text: str) -> Table:
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    return table


@pytest.mark.parametrize("kind", ["str", "Text", "Table", "Panel"])
def test_drawn_text_is_escaped_and_no_markup(kind: str) -> None:
    kinds = {"str": str, "Text": Text, "Table": _table, "Panel": lambda text: Panel(Text(text))}
    shown = _drawn(kinds[kind](MARKUP + CONTROLS))
    assert MARKUP in shown
    assert not RAW.search(shown)
    assert r"\u001b[31m" in shown


def test_a_consoles_own_control_sequences_stay() -> None:
    coloured = _drawn(Text("red\x1b[0m", "red"), force_terminal=True, color_system="standard")
    assert coloured.startswith("\x1b[31mred\\u001b[0m\x1b[0m")
    stream = io.StringIO()
    console = Terminal(file=stream, force_terminal=True, width=60)
    with Live(Text("a\x1b]0;b"), console=console, refresh_per_second=1):
        pass
    assert "\x1b[?25l" in stream.getvalue(), "the cursor is hidden"
    assert "\x1b]0;" not in stream.getvalue()


def test_a_column_of_a_display_is_no_markup() -> None:
    text = column("{task.description}").render(SimpleNamespace(description=MARKUP))  # type: ignore[arg-type]
    assert text.plain == MARKUP


def test_tables_without_a_terminal_have_a_fixed_width(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal().width == 160
    assert terminal(width=200).width == 200
