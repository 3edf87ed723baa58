"""`minigpt data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minigpt.cli.terminal import say

if TYPE_CHECKING:
    from minigpt.system.download import RemoteFile

data_app = typer.Typer(help="List and download datasets.", no_args_is_help=True, rich_markup_mode=None)


@data_app.command("list")
def list_datasets() -> None:
    """List the datasets, and whether each is downloaded."""
    from minigpt.contracts import Dataset
    from minigpt.registry import REGISTRY
    from minigpt.system.download import cached

    _register_all()
    entries = REGISTRY.entries("dataset")
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        assert issubclass(entry.cls, Dataset)
        remote = entry.cls.remote
        if remote is None:
            state = "no download needed"
        elif cached(remote):
            state = f"downloaded: {remote.path}"
        else:
            state = f"not downloaded; use: minigpt data fetch {entry.name}, or: minigpt data add {entry.name} FILE"
        say(f"{entry.name:<{width}}  {state}\n{'':<{width}}  {entry.summary}")


@data_app.command()
def add(
    name: Annotated[str, typer.Argument(help="A dataset that needs a download, such as tinyshakespeare.")],
    file: Annotated[Path, typer.Argument(help="Your copy of its file. The SHA-256 is checked.")],
) -> None:
    """Add your own copy of a dataset to the cache, on machines without a network."""
    from minigpt.system import download as cache

    say(f"added: {cache.add(_remote(name), file)}")


@data_app.command()
def fetch(name: Annotated[str, typer.Argument(help="A dataset that needs a download, such as tinyshakespeare.")]) -> None:
    """Download a dataset into the cache. The SHA-256 is checked."""
    from minigpt.system import download as cache

    remote = _remote(name)
    cache.read(remote, f"without a network, add your own copy: minigpt data add {name} FILE")
    say(f"downloaded: {remote.path}")


def _register_all() -> None:
    import minigpt.components  # noqa: F401
    from minigpt.registry import plugins

    plugins.load_installed()


def _remote(name: str) -> RemoteFile:
    from minigpt.contracts import Dataset
    from minigpt.errors import DataError
    from minigpt.registry import REGISTRY

    _register_all()
    dataset = REGISTRY.entry("dataset", name).cls
    assert issubclass(dataset, Dataset)
    if dataset.remote is None:
        raise DataError(f'"{name}" needs no download')
    return dataset.remote
