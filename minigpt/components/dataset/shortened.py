"""Less training text of another dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from minigpt.contracts import Dataset, DatasetSpec, Sequences, Splits
from minigpt.registry import register

_PYTHON_DOCS: Any = "python-docs"  # as a value in JSON


@register("dataset", "shortened")
class Shortened(Dataset):
    """The beginning of another dataset's training data; its validation data are the same.

    With the same number of updates, training passes over less data more often. `compare --epochs` uses it. Up to about four
    passes are nearly as good as new text, and many more are not (Muennighoff et al. 2023, arXiv:2305.16264).

    Args:
        dataset: The dataset.
        fraction: Share of its training text (in characters) or of its training rows.
    """

    def __init__(self, *, dataset: DatasetSpec = _PYTHON_DOCS, fraction: Annotated[float, Field(gt=0, le=1)] = 0.5):
        self.dataset, self.fraction = dataset.build(), fraction

    def load(self) -> Splits:
        splits = self.dataset.load()
        if isinstance(splits.train, str):
            size, unit = len(splits.train), "characters"
            train: str | Sequences = splits.train[: (kept := self._kept(size))]
        else:
            size, unit = len(splits.train.tokens), "rows"
            kept = self._kept(size)
            train = Sequences(splits.train.tokens[:kept], splits.train.targets[:kept], splits.train.mask[:kept])
        documents = splits.documents and tuple(start for start in splits.documents if start < kept)
        notes = (*splits.notes, f"training data: the first {kept:,} of {size:,} {unit}")
        return replace(splits, train=train, documents=documents, notes=notes)

    def _kept(self, size: int) -> int:
        return max(1, round(self.fraction * size))
