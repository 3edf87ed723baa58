"""The command line: one module per command. torch is imported only when a command that needs it runs."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from minigpt import __version__
from minigpt.cli.ablate import ablate
from minigpt.cli.bench import bench_app
from minigpt.cli.check import check
from minigpt.cli.compare import compare
from minigpt.cli.data import data_app
from minigpt.cli.diff import diff
from minigpt.cli.generate import generate
from minigpt.cli.ladder import ladder
from minigpt.cli.ledger import ledger
from minigpt.cli.list import list_components
from minigpt.cli.new import new
from minigpt.cli.report import report
from minigpt.cli.resume import resume
from minigpt.cli.run import run
from minigpt.cli.runs import runs
from minigpt.cli.schema import schema
from minigpt.cli.show import show
from minigpt.cli.terminal import say, warn
from minigpt.errors import DivergedError, MinigptError

app = typer.Typer(
    name="minigpt",
    help="An architecture lab for small GPT-style language models: choose components in JSON, train, generate, compare.",
    epilog="Start with: minigpt run experiments/quickstart.json",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # text in [ ] is not markup
)
app.command()(run)
app.command()(resume)
app.command()(generate)
app.command()(check)
app.command()(compare)
app.command()(ablate)
app.command()(ledger)
app.command()(ladder)
app.command()(report)
app.command()(runs)
app.command()(diff)
app.command()(show)
app.command(name="list")(list_components)
app.command()(new)
app.command()(schema)
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"minigpt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


# The class that typer raises for a wrong command line. Some versions of typer use click's class, others their own.
_UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


@functools.cache
def _command() -> Any:
    """The app as a click command. Cached because typer reads the annotations of every command to build it."""
    return typer.main.get_command(app)


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Errors that a user can fix are printed in one line each, without a traceback.

    Exit codes: 0 done; 1 a plugin failed, --gate is not passed, or minigpt has a bug; 2 the request must be fixed;
    3 training diverged; 128 + N stopped by signal N, with the run saved (Ctrl-C: 130, SIGTERM: 143, a closed terminal: 129).
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character must not end a run
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _print_traceback
    try:
        _require_folder()
        code = _command()(args=arguments, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except _UsageError as error:
        shown = io.StringIO()
        error.show(shown)
        warn(shown.getvalue(), end="")
        sys.exit(error.exit_code)
    except typer.Abort:  # Ctrl-C, in some versions of typer
        sys.exit(130)
    except MinigptError as error:
        kind, code = _kind(error)
        for line in str(error).splitlines():
            warn(f"{kind}: {line}")
        sys.exit(code)
    except SystemExit as error:  # click exits with 1 if the reader of our output has closed the pipe
        if isinstance(error.__context__, BrokenPipeError):
            sys.stderr.close()
            sys.exit(0)
        raise
    except BrokenPipeError:  # the reader of our output has closed the pipe: `minigpt list | head`
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # a plugin may raise anything: its author needs the line of the plugin that failed
        place = _place_in_plugin(error)
        if place is None and isinstance(error, OSError):  # a full disk or a read-only folder, not a bug
            warn(f"error: {error.filename or 'the system'}: {error.strerror or error}")
            sys.exit(2)
        if place is None and "TORCH_LOGS" in os.environ and _is_about_logs(error):
            warn(f"error: torch refuses TORCH_LOGS={os.environ['TORCH_LOGS']} in the environment; unset or correct it")
            sys.exit(2)
        if place is None and _is_out_of_memory(error):
            warn(f"error: {_out_of_memory()}")
            sys.exit(2)
        if place is None or "MINIGPT_TRACEBACK" in os.environ:
            raise
        warn(f"error: {place}: {type(error).__name__}: {error}")
        warn("error: set MINIGPT_TRACEBACK=1 in the environment to see the whole traceback")
        sys.exit(1)


def _require_folder() -> None:
    """Refuse to work in a folder that was deleted: torch's libraries would end the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise MinigptError("the working folder was deleted; change to a folder that exists") from None


def _open_closed_streams() -> None:
    """Open the standard streams on the null device where a daemon was started without them, so that printing works."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - stays open until the process ends


def _kind(error: MinigptError) -> tuple[str, int]:
    """The first word of an error message, and the exit code."""
    if isinstance(error, DivergedError):
        from minigpt.run.status import Status

        return Status.DIVERGED, 3
    return "error", 2


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. torch on a CPU reports it only in a message; Python, numpy and torch on a GPU have a class."""
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    in_import = isinstance(error, ImportError) and "failed to map segment" in str(error)
    return isinstance(error, MemoryError) or on_gpu or in_import or "can't allocate memory" in str(error)


def _is_about_logs(error: BaseException) -> bool:
    """Whether torch's reading of TORCH_LOGS raised the error, while torch was imported."""
    return any("_logging" in Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__))


def _out_of_memory() -> str:
    free = ""
    with contextlib.suppress(MemoryError, ImportError):  # too little memory may be left even for this measurement
        from minigpt.numbers import size
        from minigpt.system.memory import available_memory

        available = available_memory()
        free = "" if available is None else f" ({size(available)} are free on the CPU now)"
    return f"out of memory{free}; use a smaller corpus, model, block_size or micro_batch_size, or close other programs"


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    warn("".join(traceback.format_exception(kind, error, trace)), end="")


def _place_in_plugin(error: Exception) -> str | None:
    """The last line of a plugin file in an exception's traceback; None without a plugin in it."""
    from minigpt.registry.plugins import last_place

    return last_place(error)
