"""TinyShakespeare, the corpus of the documented run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from minigpt.contracts import Dataset, Splits
from minigpt.registry import register
from minigpt.system import download as cache


@register("dataset", "tinyshakespeare")
class TinyShakespeare(Dataset):
    """40,000 lines of Shakespeare's plays in one file of 1.1 MB, 65 different characters (Karpathy 2015, char-rnn).

    Args:
        val_fraction: Share of the file for validation, at its end.
    """

    remote = cache.RemoteFile(
        name="tinyshakespeare.txt",
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        size=1_115_394,
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    )

    def __init__(self, *, val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1):
        self.val_fraction = val_fraction

    def load(self) -> Splits:
        content = cache.read(
            self.remote,
            "without a network, add a copy you have: minigpt data add tinyshakespeare FILE; or start with "
            "experiments/quickstart.json, which needs no download",
        )
        return Splits.of_text(content.decode("ascii"), self.val_fraction)
