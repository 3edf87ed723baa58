"""`minigpt list`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minigpt.cli.options import PluginFile

if TYPE_CHECKING:
    from minigpt.registry import Entry


def list_components(
    family: Annotated[str | None, typer.Argument(help="Only this family, with every parameter explained.")] = None,
    plugin: PluginFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List the components: what each is, its parameters with defaults, and where it comes from."""
    from rich.console import Console

    import minigpt.components  # noqa: F401 - registers the shipped ones
    from minigpt import plugins
    from minigpt.registry import REGISTRY

    plugins.load_installed()
    for file in plugin or []:
        plugins.load_file(file)
    families = [REGISTRY.family(family)] if family else REGISTRY.families()
    if as_json:
        rows = [_as_json(entry) for each in families for entry in REGISTRY.entries(each.name)]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=False)
    for each in families:
        console.print(f"[bold]{each.name}[/bold]  [dim]{(each.base.__doc__ or '').split('. Constructor')[0].split('.')[0]}[/dim]")
        for entry in REGISTRY.entries(each.name):
            _print(console, entry, detailed=family is not None)
        console.print()
    if family is None:
        console.print("[dim]minigpt list FAMILY explains every parameter.[/dim]")


def _print(console: Any, entry: Entry, *, detailed: bool) -> None:
    from rich.markup import escape
    from rich.padding import Padding
    from rich.text import Text

    summary = Text.assemble((f"{entry.name}  ", "cyan"), entry.summary)
    console.print(Padding(summary, (0, 0, 0, 2)))
    parameters = _parameters(entry)
    if detailed:
        for name, default, meaning in parameters:
            line = Text.assemble((f"{name} = {default}", "green"), f"  {meaning}" if meaning else "")
            console.print(Padding(line, (0, 0, 0, 6)))
        console.print(Padding(f"[dim]from {escape(_origin(entry))}[/dim]", (0, 0, 0, 6)))
    else:
        listed = "  ".join(f"{name}={default}" for name, default, _ in parameters)
        tail = "" if _is_shipped(entry) else f"  from {_origin(entry)}"
        if listed or tail:
            console.print(Padding(Text.assemble((listed, "green"), (tail, "dim")), (0, 0, 0, 6)))


def _parameters(entry: Entry) -> list[tuple[str, str, str]]:
    rows = []
    for name, field in entry.params.model_fields.items():
        default = "(required)" if field.is_required() else json.dumps(field.default, default=str)
        rows.append((name, default, entry.descriptions.get(name, "")))
    return rows


def _is_shipped(entry: Entry) -> bool:
    return entry.cls.__module__.startswith("minigpt.")


def _origin(entry: Entry) -> str:
    if _is_shipped(entry):
        return f"minigpt ({entry.cls.__module__})"
    return f"{entry.file}:{entry.line}"


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "family": entry.family,
        "name": entry.name,
        "summary": entry.summary,
        "origin": _origin(entry),
        "parameters": entry.params.model_json_schema().get("properties", {}),
    }
