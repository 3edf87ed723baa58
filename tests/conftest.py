"""Settings and fixtures of all tests: run-time shape checks, no network, goldens, Hypothesis profiles."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

# One thread, also in commands that tests run: xdist runs one process per core, and more threads would change the rounding of sums.
THREADS = int(os.environ.get("MINIGPT_TEST_THREADS", "1"))
os.environ["OMP_NUM_THREADS"] = str(THREADS)

# Handle these signals as in a terminal: `pytest &` in a script and nohup ignore them, and child processes inherit that.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

import jaxtyping  # noqa: E402

# Installed before these modules are imported, so that their shape annotations are checked.
_SHAPED = ("components", "contracts", "data", "decoding", "kernels", "model", "recurrence")
_hook = jaxtyping.install_import_hook([f"minigpt.{name}" for name in _SHAPED], "beartype.beartype")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

import minigpt.components  # noqa: E402
import minigpt.run.git  # noqa: E402
import minigpt.system.download  # noqa: E402
import minigpt.training.estimate  # noqa: E402
from minigpt.cli import main  # noqa: E402
from minigpt.registry import REGISTRY  # noqa: E402

torch.set_num_threads(THREADS)

os.fsync = lambda file: None  # a power failure is not tested, and a disk takes milliseconds for each of thousands
_git_state = minigpt.run.git.state
_git_state_here = functools.cache(_git_state)
_HERE = Path.cwd()
minigpt.run.git.state = lambda: _git_state_here() if Path.cwd() == _HERE else _git_state()  # six processes for each run

minigpt.training.estimate._AT_MOST_UPDATES = 2  # hundreds of tests train, and few need a good time estimate

minigpt.system.download._BACK_OFF_SECONDS = 0.0

hypothesis.settings.register_profile("dev", max_examples=10, deadline=None, derandomize=True)
hypothesis.settings.register_profile("deep", max_examples=300, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="rewrite tests/golden/; read the diff")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(autouse=True)
def _shapes_checked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check shapes of components only in their own tests, not in the thousands of passes of training runs.

    Users run without these checks, so the lab must report such errors; and torch.compile cannot trace the checks.
    """
    if request.path.relative_to(Path(__file__).parent).parts[0] in ("check", "cli", "lab", "training"):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests must not use a network, only a server on this machine."""
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", only_here)


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    """Remove components and plugins that a test registered."""
    with REGISTRY.temporarily():
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests do not change the user's list of trusted plugins. Session scope, because module fixtures need it too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIGPT_CONFIG", str(tmp_path_factory.mktemp("config")))
        yield


_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _own_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    """Tests do not touch the user's cache, unless they ask for the real corpus."""
    if "real_corpus" not in request.fixturenames:
        monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-{next(_NUMBERS)}"))


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def minigpt(capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs a command in this process and returns exit code, output and errors."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out, printed.err

    return call
