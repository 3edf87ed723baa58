"""docs/writing-a-plugin.md as blocks and tables, and a folder in which they are followed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "writing-a-plugin.md").read_text("utf-8")
SHARP = Path("plugins/sharp.py")

SMALL = ("model.d_model=16", "model.n_layers=2", "model.block_size=32", "training.batch_size=4", "training.max_iters=3")
TEXT = 'data={"name": "text", "paths": ["corpus.txt"]}'
SHORTER = {
    "minigpt run": [
        word
        for change in (*SMALL, "training.precision=fp32", "sampling.max_new_tokens=8", TEXT)
        for word in ("--set", change)
    ],
    "minigpt generate": ["--max-new-tokens", "8", "--seed", "1"],
    "minigpt check plugins/sharp.py": ["--no-thorough", "--examples", "1"],
    "minigpt check plugins/curriculum.py": ["--examples", "1"],
    "minigpt check plugins/unsure.py": ["--examples", "1"],
    "minigpt check norm/peak": ["--no-thorough"],
}
"""Options appended to commands with this start."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str


@dataclass(frozen=True)
class Answer:
    """The outcome of a command: everything that it printed, without its working folder."""

    command: str
    code: int
    printed: str


@dataclass
class Clone:
    """A reader's folder, in which blocks of the page are executed one after another."""

    root: Path
    site: Path
    answers: list[Answer] = field(default_factory=list)
    edited: str = ""

    @property
    def plugin(self) -> Path:
        return self.root / SHARP

    def follow(self, block: Block) -> None:
        """Apply an edit, write a file, run commands, or compare an output with the previous commands' output."""
        if block.language == "diff":
            self.plugin.write_text(edit(self.edited or self.plugin.read_text("utf-8"), block.text), "utf-8")
        elif block.language in ("python", "toml") and (name := re.match(r"# (\S+/\S+\.\w+)\n", block.text)):
            (self.root / name[1]).parent.mkdir(exist_ok=True)
            (self.root / name[1]).write_text(block.text, "utf-8")
        elif block.language == "bash":
            self.answers = [self.give(line) for line in block.text.splitlines()]
        elif block.language == "text":
            assert_shown(block.text, "\n".join(answer.printed for answer in self.answers))

    def give(self, line: str) -> Answer:
        """Run one line of the page, and check its exit code: 0, or as in `# exit code 1`."""
        command, _, remark = line.partition("  #")
        words = shlex.split(command)
        if words[:2] == ["pip", "install"]:
            return self.install(self.root / words[-1].partition("[")[0])
        for beginning, more in SHORTER.items():
            words += more if command.startswith(beginning) else []
        if words[0] in ("minigpt", "pytest"):
            words = [sys.executable, "-m", *words]
        environment = {**os.environ, "PYTHONPATH": str(self.site), "COLUMNS": "125", "OMP_NUM_THREADS": "1"}
        answer = subprocess.run(
            words,
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=300,
        )
        expected = re.search(r"exit code (\d)", remark)
        assert answer.returncode == int(expected[1] if expected else 0), f"{line}\n{answer.stdout}"
        return Answer(command, answer.returncode, answer.stdout.replace(f"{self.root.resolve()}/", ""))

    def install(self, folder: Path) -> Answer:
        """Install as pip would from the pyproject.toml; pip itself needs a network for the build's requirements."""
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
        name, version = project["project"]["name"], project["project"]["version"]
        metadata = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        groups = project["project"]["entry-points"]
        (metadata / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
                for group, points in groups.items()
            )
        )
        for module in project["tool"]["setuptools"]["py-modules"]:
            shutil.copy(folder / f"{module}.py", self.site)
        return Answer("pip", 0, "")


def edit(text: str, diff: str) -> str:
    """Apply the hunks of a diff, each found exactly once."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before, after = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
        assert text.count(before) == 1, f"the plugin does not have this:\n{before}"
        text = text.replace(before, after)
    return text


def assert_shown(shown: str, printed: str) -> None:
    """Check that the shown text was printed, in this order: spaces and numbers may differ, and … is any text."""
    printed = " ".join(printed.split())
    place = 0
    for part in filter(None, (" ".join(part.split()) for part in shown.split("…"))):
        pattern = re.sub(r"\d(?:[\d.,]*\d)?(?:e-?\d+)?", "FIGURE", part)
        pattern = re.escape(pattern).replace("FIGURE", r"\d(?:[\d.,]*\d)?(?:e-?\d+)?")
        found = re.search(pattern, printed[place:])
        assert found, f"the page shows\n    {part}\nand this was printed:\n    {printed[place:]}"
        place += found.end()


def section(title: str) -> list[Block]:
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]


def table(title: str, number: int = 0) -> list[list[str]]:
    """The cells of a section's table, without its header."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)[number]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]
