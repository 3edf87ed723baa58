"""Tests that the fingerprint of a part from outside depends on the modules that the part imports."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minigpt.errors import RunError
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, plugins
from minigpt.run import open_run, outside
from minigpt.run.sources import Sources
from tests.training.conftest import Write, run, writer


@pytest.fixture
def write_experiment(tmp_path: Path) -> Write:
    return writer(tmp_path)


PART = """
from torch import nn
from minigpt import register
from minigpt.contracts import Norm
{imports}

@register("norm", "{name}")
class Foreign(Norm):
    \"\"\"A norm.\"\"\"

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(FACTOR * torch.ones(width))

    def forward(self, x):
        return x * self.gain
"""
FACTOR = "FACTOR = {}\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], Path]]:
    """A function that installs a distribution: files in a folder on sys.path, with a RECORD."""
    before = set(sys.modules)
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))

    def install(files: dict[str, str], distribution: str = "foreign-parts", version: str = "0.1") -> Path:
        record = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        files = {
            **files,
            f"{record.name}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
            f"{record.name}/RECORD": "".join(f"{name},,\n" for name in files),
        }
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        plugins._distributions.cache_clear()
        outside._installed_in.cache_clear()
        importlib.invalidate_caches()
        return folder

    with REGISTRY.temporarily():
        yield install
    tops = {file.stem for file in folder.iterdir()} if folder.is_dir() else set()
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in tops:  # and not what they were the first to import: torch cannot be imported twice
            del sys.modules[name]
    plugins._distributions.cache_clear()
    outside._installed_in.cache_clear()


@pytest.mark.parametrize(
    ("module", "helper", "imports"),
    [
        ("foreign_norm", "_foreign_helper.py", "from _foreign_helper import FACTOR"),
        ("foreign_norm", "_foreign_helper.py", "import _foreign_helper as it\nFACTOR = it.FACTOR"),
        (
            "foreign_names.parts.norms",
            "foreign_names/parts/util.py",
            "from foreign_names.parts import util\nFACTOR = util.FACTOR",
        ),
        ("foreign_names.parts.norms", "foreign_names/parts/util.py", "from .util import FACTOR"),
        ("foreign_names.parts.norms", "foreign_names/parts/__init__.py", "from . import FACTOR"),
        ("foreign_whole.norms", "foreign_whole/util.py", "from foreign_whole.util import FACTOR"),
        ("foreign_norm", "antigravity.py", "from antigravity import FACTOR"),  # a file hides a standard module of its name
        ("foreign_norm", "_called.py", "from importlib import import_module as get\nFACTOR = get('_called').FACTOR"),
        ("foreign_norm", "_called.py", "import importlib\nFACTOR = importlib.import_module(name='_called').FACTOR"),
        (
            "foreign_names.parts.norms",
            "foreign_names/parts/util.py",
            "import importlib\nFACTOR = importlib.import_module('.util', __package__).FACTOR",
        ),
    ],
)
def test_an_installed_part_changes_with_the_modules_of_its_distribution_that_it_imports(
    module: str, helper: str, imports: str, installed: Callable[[dict[str, str]], Path]
) -> None:
    above = {f"{module.rpartition('.')[0].replace('.', '/')}/__init__.py": ""} if "." in module else {}
    files = {**above, f"{module.replace('.', '/')}.py": PART.format(name="foreign", imports=f"import torch\n{imports}")}
    folder = installed({**files, helper: FACTOR.format(7.0), "foreign_beside.py": ""})
    cls = importlib.import_module(module).Foreign
    before = Sources().part_fingerprint(cls)
    assert Sources().part_fingerprint(cls) == before
    (folder / "foreign_beside.py").write_text(FACTOR.format(2.0))
    assert Sources().part_fingerprint(cls) == before, "no part imports this module"
    (folder / helper).write_text(FACTOR.format(1.0))
    assert Sources().part_fingerprint(cls) != before


def test_opening_a_run_reports_installed_parts_that_were_edited_since(
    installed: Callable[[dict[str, str]], Path], write_experiment: Write, tmp_path: Path
) -> None:
    imports = "import torch\nfrom _foreign_helper import FACTOR"
    files = {"foreign_norm.py": PART.format(name="foreign", imports=imports), "_foreign_helper.py": FACTOR.format(7.0)}
    folder = installed(files)
    importlib.import_module("foreign_norm")
    experiment = load_experiment(write_experiment(max_iters=2), overrides=["model.norm=foreign"])
    trained = run(experiment, tmp_path / "runs").run.path
    assert open_run(trained).notes == ()
    (folder / "_foreign_helper.py").write_text(FACTOR.format(1.0))
    (line,) = open_run(trained).notes
    assert line.startswith(f"the source of norm/foreign ({folder / 'foreign_norm.py'}) changed since the run was trained")


def test_a_plugin_changes_with_a_helper_on_the_path_that_it_extends_and_with_the_helpers_imports(
    tmp_path: Path, installed: Callable[[dict[str, str]], Path], write_experiment: Write
) -> None:
    for name, text in (("foreign_first", "from foreign_second import FACTOR\n"), ("foreign_second", FACTOR.format(7.0))):
        (tmp_path / "lib").mkdir(exist_ok=True)
        (tmp_path / "lib" / f"{name}.py").write_text(text)
    imports = f"import sys, torch\nsys.path.insert(0, {str(tmp_path / 'lib')!r})\nfrom foreign_first import FACTOR"
    file = tmp_path / "plugins" / "sib.py"
    file.parent.mkdir()
    file.write_text(PART.format(name="sib", imports=imports))
    cls = plugins.load_file(file).classes["norm/sib"]
    before = Sources().part_fingerprint(cls)
    experiment = load_experiment(write_experiment(max_iters=2), overrides=["model.norm=sib"], plugin_files=[file])
    trained = run(experiment, tmp_path / "first").run
    (tmp_path / "lib" / "foreign_second.py").write_text(FACTOR.format(1.0))
    assert Sources().part_fingerprint(cls) != before
    with pytest.raises(RunError, match='foreign_second.py changed since norm "sib" was loaded, and this process uses the'):
        run(experiment, tmp_path / "second")
    assert trained.exists()
    assert not (tmp_path / "second" / experiment.name / f"seed-{experiment.seed}" / "experiment.json").exists()
    sys.path.remove(str(tmp_path / "lib"))


def test_another_distribution_counts_with_its_version_for_late_and_early_imports(
    installed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = "import torch\ndef later():\n    from foreign_library import FACTOR\n    return FACTOR"
    folder = installed({"foreign_norm.py": PART.format(name="foreign", imports=late)})
    installed({"foreign_library/__init__.py": FACTOR.format(7.0)}, "foreign-library", "1.0")
    module = importlib.import_module("foreign_norm")
    before = Sources().part_fingerprint(module.Foreign)
    assert module.later() == 7.0
    assert Sources().part_fingerprint(module.Foreign) == before, "the module is imported now"
    (folder / "foreign_library" / "__init__.py").write_text(FACTOR.format(1.0))
    assert Sources().part_fingerprint(module.Foreign) == before, "only the version of the distribution counts"
    (folder / "foreign_library-1.0.dist-info").rename(folder / "foreign_library-1.1.dist-info")
    installed({}, "foreign-library", "1.1")
    assert Sources().part_fingerprint(module.Foreign) != before
