"""Runs with plugins that leave a mark when they are executed, in every way that a run can name one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from minigpt.registry import plugins, trust
from tests.forging import forge

PART = '''
from minigpt import register
from minigpt.contracts import Norm

@register("norm", "own")
class Own(Norm):
    """Nothing is divided."""
    def __init__(self, width: int):
        super().__init__()
    def forward(self, x):
        return x
'''
NOTHING_BUT_A_MARK = PART.replace('"own"', '"evil"')


def marking(code: str, mark: Path) -> str:
    return f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n{code}"


OWN, PLAIN = Path("runs/own/seed-1337"), Path("runs/plain/seed-1337")


def edit_json(file: Path, **changes: object) -> None:
    forge(file, {**json.loads(file.read_text()), **changes})


def plant_own(run: Path, mark: Path) -> None:
    (run / "plugins").mkdir(exist_ok=True)
    (run / "plugins/own.py").write_text(marking(PART, mark))
    edit_json(run / "experiment.json", plugins=["plugins/own.py"])


def plant_unused(run: Path, mark: Path) -> None:
    (run / "plugins").mkdir(exist_ok=True)
    (run / "plugins/evil.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    edit_json(run / "experiment.json", plugins=["plugins/evil.py"])


def _absolute(run: Path, mark: Path) -> None:
    outside = mark.with_name("evil.py")
    outside.write_text(marking(NOTHING_BUT_A_MARK, mark))
    edit_json(run / "experiment.json", plugins=[str(outside)])


def _outside(run: Path, mark: Path) -> None:
    Path("evil.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    edit_json(run / "experiment.json", plugins=["../../../evil.py"])


def _link(run: Path, mark: Path) -> None:
    Path("evil.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    (run / "plugins").mkdir(exist_ok=True)
    (run / "plugins/evil.py").symlink_to(Path("evil.py").absolute())
    edit_json(run / "experiment.json", plugins=["plugins/evil.py"])


def _folder(run: Path, mark: Path) -> None:
    (run / "plugins/pack").mkdir(parents=True, exist_ok=True)
    (run / "plugins/pack/__init__.py").write_text("from . import part\n")
    (run / "plugins/pack/part.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    edit_json(run / "experiment.json", plugins=["plugins/pack"])


def _extends(run: Path, mark: Path) -> None:
    (run / "evil.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    (run / "parent.json").write_text(json.dumps({"plugins": ["evil.py"]}))
    edit_json(run / "experiment.json", extends="parent.json", plugins=[])


def _extends_outside(run: Path, mark: Path) -> None:
    Path("evil.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    Path("parent.json").write_text(json.dumps({"plugins": ["evil.py"]}))
    edit_json(run / "experiment.json", extends="../../../parent.json", plugins=[])


def _after_a_known_one(run: Path, mark: Path) -> None:
    Path("known.py").write_text(marking(PART.replace('"own"', '"known"'), mark))
    trust.remember(plugins.fingerprint(Path("known.py")), Path("known.py"))
    (run / "plugins").mkdir(exist_ok=True)
    (run / "plugins/evil.py").write_text(marking(NOTHING_BUT_A_MARK, mark))
    edit_json(run / "experiment.json", plugins=["../../../known.py", "plugins/evil.py"])


HOSTILE: dict[str, tuple[Callable[[Path, Path], None], Path]] = {
    "a component that its model uses": (plant_own, OWN),
    "a component that its model does not use": (plant_unused, PLAIN),
    "an absolute path": (_absolute, PLAIN),
    "a path outside the run folder": (_outside, PLAIN),
    "a link": (_link, PLAIN),
    "a folder": (_folder, PLAIN),
    "a file that it extends": (_extends, PLAIN),
    "a file outside the run folder that it extends": (_extends_outside, PLAIN),
    "a plugin after a trusted one": (_after_a_known_one, PLAIN),
}
