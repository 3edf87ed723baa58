"""A mixture of corpora: an example plugin, a dataset made of datasets.

Use it by naming this file in an experiment's "plugins" (see experiments/mixture.json).
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Annotated

from pydantic import Field

from minigpt.contracts import Dataset, DatasetSpec, Splits
from minigpt.errors import DataError
from minigpt.registry import register

_EXAMPLE = [
    {"name": "text", "paths": [str(Path(sysconfig.get_path("stdlib"), name))], "suffixes": [".py"]}
    for name in ("email", "json")
]
"""For `minigpt check`: two corpora that every Python has."""

_BETWEEN = "\n"


@register("dataset", "mixture")
class Mixture(Dataset):
    """Texts with a share of the training data each, as in table 1 of LLaMA (Touvron et al. 2023, arXiv:2302.13971).

    The mixture is as large as the shares and `repeats` allow: the text that is used up first is there `repeats` times, of
    the others the beginning. Windows that are drawn anywhere see each text by its share. The validation text is that of all
    datasets, in full, whatever the weights: runs with other weights can be compared.

    Args:
        datasets: The texts.
        weights: Their shares of the training data, of any sum.
        repeats: How often the text that is used up first occurs, at most.
    """

    def __init__(
        self,
        *,
        datasets: Annotated[list[DatasetSpec], Field(min_length=1, examples=[_EXAMPLE, _EXAMPLE[::-1]])],
        weights: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, examples=[[3.0, 1.0], [1.0, 2.0]])],
        repeats: Annotated[float, Field(gt=0, le=100)] = 1.0,
    ):
        if len(weights) != len(datasets):
            raise ValueError(f"{len(weights)} weights for {len(datasets)} datasets")
        self.names = [each.name for each in datasets]
        self.datasets, self.repeats = [each.build() for each in datasets], repeats
        self.shares = [weight / sum(weights) for weight in weights]

    def load(self) -> Splits:
        parts = [each.load() for each in self.datasets]
        for name, part in zip(self.names, parts, strict=True):
            if not isinstance(part.train, str):
                raise DataError(f"data: mixture needs texts, but {name} returns the rows of a task")
        size = min(len(part.train) * self.repeats / share for part, share in zip(parts, self.shares, strict=True))
        texts: list[str] = []
        starts: list[int] | None = []
        for part, share in zip(parts, self.shares, strict=True):
            length, whole = max(1, round(share * size)), len(part.train) + len(_BETWEEN)
            if starts is not None and part.documents is not None:
                before, turns = sum(map(len, texts)), range(-(-length // whole))
                again = (turn * whole + start for turn in turns for start in part.documents)
                starts += [before + start for start in again if start < length]
            else:
                starts = None  # of the whole it is not known where documents begin
            texts.append(((part.train + _BETWEEN) * (length // whole + 1))[:length])
        notes = tuple(
            f"{name}: {len(text):,} of {len(part.train):,} characters for training, {share:.0%} of the mixture"
            for name, text, part, share in zip(self.names, texts, parts, self.shares, strict=True)
        )
        val = _BETWEEN.join(str(part.val) for part in parts)
        inner = tuple(note for part in parts for note in part.notes)
        return Splits("".join(texts), val, notes=notes + inner, documents=None if starts is None else tuple(starts))
