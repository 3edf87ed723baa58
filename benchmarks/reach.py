"""Checks, trains and decodes 25 published mechanisms, each a plugin file or a shipped part, and lists them.

    python benchmarks/reach.py --only focal looped   # names of files, or of mechanisms
    python benchmarks/reach.py --write               # all of them, for docs/results/reach.md

With both, only the lines of these files are replaced. `mechanisms.py` has the list.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mechanisms import ROOT, Mechanism, Part, parts
from minigpt.components.dataset.python_docs import PythonDocs
from minigpt.run import RunFolder

PAGE = ROOT / "docs" / "results" / "reach.md"
MOST_LINES = 99
UPDATES, TRAINING_TEXT, OTHER_TEXT = 60, 100_000, 50_000
SMALL: dict[str, Any] = {
    "model": {"d_model": 64, "n_layers": 4, "n_heads": 4, "block_size": 64, "dropout": 0.0, "position": "rope"},
    "tokenizer": "byte",
    "training": {
        "batch_size": 16,
        "max_iters": UPDATES,
        "eval_interval": 1,
        "optimizer": {"learning_rate": 4e-3},
        "schedule": {"warmup_ratio": 0.1},
    },
    "sampling": {"prompt": "The ", "max_new_tokens": 20},
}
HEAD = f"""# What a plugin can add

    python benchmarks/reach.py --write

Twenty-five published mechanisms. Each file is used as it is, with nothing changed in minigpt: a plugin, or a shipped
part, which would work as a plugin too. *Lines* counts all lines of a file. *Check* is the verdict of `minigpt check
--no-thorough` and the seconds of computing. *Loss* is the validation loss in nats per token after the first and the
last of {UPDATES} updates of `minigpt run`, with 4 layers of width 64, on {TRAINING_TEXT:,} characters of Python's
documentation. It shows that the part learns, not how good it is; losses of other tokenizers and data cannot be
compared. *Generates* says whether `minigpt generate` continues a text with this run. *Needs* is what the file uses of
the contracts.

"""
COLUMNS = ("mechanism", "paper", "file", "lines", "check", "loss", "generates", "needs")


@dataclass(frozen=True)
class Outcome:
    """What was observed of one part.

    Attributes:
        verdict: Of the check, or why there is none.
        seconds: Of computing in the check.
        losses: The first and the last validation loss; None if it was not trained.
        generates: "yes", or why not.
    """

    verdict: str
    seconds: float
    losses: tuple[float, float] | None
    generates: str


class Workplace:
    """A folder with the experiment, its texts, and the runs.

    Args:
        folder: Empty.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        text = str(PythonDocs().load().train)
        files = {name: folder / name for name in ("text.txt", "other.txt", "ids.bin")}
        files["text.txt"].write_text(text[:TRAINING_TEXT], "utf-8")
        files["other.txt"].write_text(text[TRAINING_TEXT : TRAINING_TEXT + OTHER_TEXT], "utf-8")
        np.frombuffer(text[:TRAINING_TEXT].encode(), np.uint8).astype("<u2").tofile(files["ids.bin"])
        data = {"name": "text", "paths": [str(files["text.txt"])], "val_fraction": 0.05}
        self.experiment = folder / "reach.json"
        self.experiment.write_text(json.dumps({"name": "reach", "data": data, **SMALL}), "utf-8")
        self.places = {f"{{{file.stem}}}": str(file) for file in files.values()} | {
            "{run}": str(self.run_of("teacher").path)
        }

    def run_of(self, name: str) -> RunFolder:
        """The run of this name."""
        return RunFolder(self.folder / "runs" / name / "seed-1")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of minigpt in the folder."""
        command = [sys.executable, "-m", "minigpt", *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, encoding="utf-8", check=False)

    def train(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Train under a name."""
        return self.command(
            "run", str(self.experiment), "--name", name, "--seed", "1", "--device", "cpu", "--threads", "1", *options
        )

    def settings(self, part: Part) -> list[str]:
        """The options of a part's run; a teacher is trained if it needs one."""
        if any("{run}" in setting for setting in part.settings) and not self.run_of("teacher").path.exists():
            self.train("teacher")
        options = [] if part.shipped else ["--plugin", str(part.file)]
        for setting in part.settings:
            for placeholder, path in self.places.items():
                setting = setting.replace(placeholder, Path(path).as_posix())
            options += ["--set", setting]
        return options

    def observe(self, part: Part) -> Outcome:
        """Check, train and decode a part."""
        checked = self.command("check", part.name if part.shipped else str(part.file), "--no-thorough", "--json")
        try:
            report = json.loads(checked.stdout)
        except json.JSONDecodeError:
            return Outcome(reason(checked), 0.0, None, "not tried")
        untried = [target["target"] for target in report["targets"] if target["verdict"] == "untried"]
        verdict = report["verdict"] + "".join(f", {name} not tried" for name in untried)
        seconds = sum(target["seconds"] for target in report["targets"])
        name = part.name.replace("/", "-")
        trained = self.train(name, *self.settings(part))
        if trained.returncode:
            return Outcome(verdict, seconds, None, reason(trained))
        losses = [row.val_loss for row in self.run_of(name).rows() if row.val_loss is not None]
        written = self.command("generate", str(self.run_of(name).path), "The ", "--seed", "1")
        return Outcome(verdict, seconds, (losses[0], losses[-1]), reason(written) if written.returncode else "yes")


def reason(failed: subprocess.CompletedProcess[str]) -> str:
    """The last line that a command printed before it failed."""
    lines = [line for line in (failed.stderr or failed.stdout).splitlines() if line.strip()]
    return f"no: {lines[-1].strip()}" if lines else f"no: exit code {failed.returncode}"


def line_of(mechanism: Mechanism, part: Part, outcome: Outcome) -> str:
    """A part's line of the table."""
    link = f"[{part.name}](../../{part.file.relative_to(ROOT).as_posix()})"
    papers = ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in mechanism.papers.split(", "))
    lines = str(len(part.file.read_text("utf-8").splitlines()))
    loss = "not trained" if outcome.losses is None else "{:.2f} → {:.2f}".format(*outcome.losses)
    check = f"{outcome.verdict}, {outcome.seconds:.0f} s"
    cells = (mechanism.name, papers, link, lines, check, loss, outcome.generates, part.needs)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def lines_on(page: Path) -> dict[str, str]:
    """The lines of the table on a page, by the name of the part."""
    if not page.is_file():
        return {}
    lines = (line for line in page.read_text("utf-8").splitlines() if line.startswith("| ") and "](../../" in line)
    return {line.split(" | ")[2].partition("]")[0].removeprefix("["): line for line in lines}


def page_of(lines: dict[str, str]) -> str:
    """The whole page, in the order of the list."""
    table = [f"| {' | '.join(COLUMNS)} |", "|---|---|---|---:|---|---|---|---|"]
    return HEAD + "\n".join([*table, *(lines[part.name] for _, part in parts() if part.name in lines)]) + "\n"


def main() -> None:
    """Observe the chosen parts, and print or write their lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", nargs="+", help="names of files, or of mechanisms")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    known = {name for each, part in parts() for name in (each.name, part.name)}
    if unknown := [name for name in given.only or () if name not in known]:
        parser.error(f"--only: there is no {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    wanted = [(each, part) for each, part in parts() if not given.only or {each.name, part.name} & {*given.only}]
    missing = [part.name for _, part in wanted if not part.file.is_file()]
    if missing:
        parser.error(f"no file for {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="minigpt-reach-") as folder:
        place = Workplace(Path(folder))
        for mechanism, part in wanted:
            line = line_of(mechanism, part, place.observe(part))
            print(line, flush=True)
            if given.write:
                PAGE.write_text(page_of({**lines_on(PAGE), part.name: line}), "utf-8")


if __name__ == "__main__":
    main()
