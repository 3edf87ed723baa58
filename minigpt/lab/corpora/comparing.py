"""Run a comparison on each of several corpora, and record what they show together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from minigpt.errors import MinigptError
from minigpt.experiment import refusal_of_name
from minigpt.lab.compare import Compared, Settings, Source
from minigpt.lab.compare.record import Comparison
from minigpt.lab.compare.variants import read_variant
from minigpt.lab.corpora.record import CorporaRecord
from minigpt.lab.corpora.rows import Row, rows_of
from minigpt.reading import Reading


class CompareOne(Protocol):
    """Makes one comparison: `minigpt.lab.compare.compare` with the variants and all other options."""

    def __call__(
        self, settings: Settings, *, out: Path, name: str | None, overrides: Sequence[str], only_plan: bool
    ) -> Compared: ...


@dataclass(frozen=True)
class ComparedCorpora:
    """The outcome of a comparison on several corpora.

    Attributes:
        folder: Its folder, which contains a folder for each corpus.
        compared: The comparison on each corpus.
        record: The results; None if it was only planned, or was stopped.
        stop_signal: The signal that stopped it; None if none did.
    """

    folder: Path
    compared: tuple[Compared, ...]
    record: CorporaRecord | None = None
    stop_signal: int | None = None

    @property
    def file(self) -> Path:
        """The path of corpora.json."""
        return self.folder / "corpora.json"

    @property
    def comparisons(self) -> list[Comparison]:
        """The results on each corpus."""
        return [each.comparison for each in self.compared if each.comparison is not None]


def compare_corpora(
    sources: Sequence[Path | Source],
    settings: Settings,
    compare_one: CompareOne,
    *,
    data: str | None = None,
    epochs: str | None = None,
    out: Path = Path("comparisons"),
    name: str | None = None,
    reading: Reading,
    only_plan: bool = False,
) -> ComparedCorpora:
    """Compare variants with a base on each of several corpora.

    All comparisons are planned before the first one trains. Verdicts are corrected for the number of variants times the
    number of corpora. If it is stopped, the same call continues it.

    Args:
        sources: As for `compare`; experiment files only.
        settings: As for `compare`.
        compare_one: Makes one comparison.
        data: Names of datasets, text files, and JSON objects, separated by commas; None for the base's data.
        epochs: Numbers of passes over the training text, separated by commas: each gives a row with training text of that
            length. None leaves the text as it is.
        out: The folder in which this one gets its folder.
        name: The name of its folder; by default the base's name with `-corpora`.
        reading: How the sources are read.
        only_plan: Stop after the plans.

    Raises:
        MinigptError: The sources cannot be compared on these corpora.
    """
    if name is not None and (refusal := refusal_of_name(name)):
        raise MinigptError(f"--name: {refusal}")
    _refuse_other_data([Source.of(source) for source in sources], data, reading)
    base = read_variant(sources[0], reading)
    rows = rows_of(base, data, epochs, reading)
    folder = out / (name or f"{base.name}-corpora")

    def one(row: Row, settings: Settings, *, only_plan: bool) -> Compared:
        overrides = (*reading.overrides, row.setting)
        return compare_one(settings, out=folder, name=row.name, overrides=overrides, only_plan=only_plan)

    compared = [one(row, settings, only_plan=True) for row in rows]
    if only_plan:
        return ComparedCorpora(folder, tuple(compared))
    family = max(1, sum(len(each.plan.variants) - 1 for each in compared))
    for index, row in enumerate(rows):
        compared[index] = one(row, replace(settings, family=family), only_plan=False)
        if compared[index].stop_signal is not None:
            return ComparedCorpora(folder, tuple(compared), stop_signal=compared[index].stop_signal)
    found = ComparedCorpora(folder, tuple(compared))
    results = zip(rows, found.comparisons, strict=True)
    record = CorporaRecord.of(folder.name, [(row.name, row.data, row.passes, comparison) for row, comparison in results])
    record.write(found.file)
    return replace(found, record=record)


def _refuse_other_data(sources: Sequence[Source], data: str | None, reading: Reading) -> None:
    """Refuse trained runs, and settings of the data beside `--data`."""
    option = "--data" if data is not None else "--epochs"
    for source in sources:
        if source.path.is_dir():
            raise MinigptError(
                f"{option} trains on other text, but {source.path} is trained already; name its experiment file"
            )
    for setting in (*reading.overrides, *(setting for source in sources for setting in source.settings)):
        if data is not None and setting.partition("=")[0].partition(".")[0].strip() == "data":
            raise MinigptError(f"--set {setting} and --data both set the data; write the parameters into --data, as JSON")
