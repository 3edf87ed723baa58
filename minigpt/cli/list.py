"""`minigpt list`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minigpt import __version__
from minigpt.cli.options import PluginFile
from minigpt.cli.terminal import say
from minigpt.printable import as_markdown

if TYPE_CHECKING:
    from rich.table import Table

    from minigpt.registry import Family
    from minigpt.registry.entry import Entry


def list_components(
    family: Annotated[str | None, typer.Argument(help="List only this family, and explain every parameter.")] = None,
    plugin: PluginFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a documentation page in Markdown.")] = False,
) -> None:
    """List all components, with their parameters and defaults."""
    from rich.text import Text

    import minigpt.components  # noqa: F401 - registers the shipped ones
    from minigpt.cli.drawing import terminal
    from minigpt.registry import REGISTRY, plugins

    plugins.load_installed()
    for file in plugin or []:
        plugins.load_file(file)
    families = [REGISTRY.family(family)] if family else REGISTRY.families()
    if as_json:
        rows = [_as_json(entry) for each in families for entry in REGISTRY.entries(each.name)]
        say(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if as_markdown:
        say("\n".join(line for each in families for line in _as_markdown(each)), end="")
        return
    console = terminal(width=None)
    for each in families:
        console.print(Text.assemble((each.name, "bold"), f"  {_about(each)}"))
        console.print(_table(REGISTRY.entries(each.name), detailed=family is not None))
    if family is None:
        place = f"Components without a named origin come with minigpt-lab {__version__}."
        console.print(Text(f"{place} minigpt list FAMILY explains every parameter.", "dim"))


def _about(family: Family) -> str:
    return (family.base.__doc__ or "").split(". ")[0].strip().rstrip(".")


def _as_markdown(family: Family) -> Iterator[str]:
    """A family as a chapter of Markdown: the summary of each component, then its parameters."""
    from minigpt.registry import REGISTRY

    yield from (f"## {family.name}", "", f"{_about(family)}.", "")
    for entry in REGISTRY.entries(family.name):
        text = str if entry.shipped else as_markdown  # shipped docstrings are Markdown; others are escaped
        yield from (f"### {text(entry.name)}", "", text(entry.summary), "")
        if parameters := _parameters(entry):
            yield from ("| parameter | default | meaning |", "|---|---|---|")
            for name, default, meaning in parameters:
                cells = [cell.replace("|", "\\|") for cell in (f"`{name}`", f"`{default}`", meaning)]
                if not entry.shipped:
                    cells = [as_markdown(cell) for cell in (name, default, meaning)]
                yield f"| {' | '.join(cells)} |"
            yield ""


def _table(entries: list[Entry], *, detailed: bool) -> Table:
    """A table with the names on the left; on the right each component's summary, parameters and origin."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=12, no_wrap=True)
    table.add_column()
    for entry in entries:
        table.add_row(Text(f"  {entry.name}", "cyan"), Text(entry.summary))
        parameters = _parameters(entry)
        if detailed:
            for name, default, meaning in parameters:
                table.add_row("", Text.assemble((f"{name} = {default}", "green"), f"  {meaning}" if meaning else ""))
        elif parameters:
            table.add_row("", Text("  ".join(f"{name}={default}" for name, default, _ in parameters), "green"))
        if detailed or not entry.shipped:
            table.add_row("", Text(f"from {_origin(entry)}", "dim"))
    table.add_row("", "")
    return table


def _parameters(entry: Entry) -> list[tuple[str, str, str]]:
    rows = []
    for name, field in entry.params.model_fields.items():
        default = "(required)" if field.is_required() else json.dumps(field.default, default=str)
        rows.append((name, default, entry.descriptions.get(name, "")))
    return rows


def _origin(entry: Entry) -> str:
    if entry.shipped:
        return f"minigpt ({entry.cls.__module__})"
    return entry.place


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "family": entry.family,
        "name": entry.name,
        "summary": entry.summary,
        "origin": _origin(entry),
        "parameters": entry.params.model_json_schema().get("properties", {}),
    }
