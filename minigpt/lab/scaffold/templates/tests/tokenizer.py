"""The tokenizer keeps its contract, and a prompt may end anywhere in a text."""

from __future__ import annotations

from pathlib import Path

from minigpt import load_experiment
from minigpt.testing import conformance

NAME = "my_part"
ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "plugins" / f"{NAME}.py"
EXPERIMENT = ROOT / "experiments" / f"{NAME}.json"


@conformance("tokenizer", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


TEXT = "To be, or not to be: that is the question.\n" * 3


def test_a_text_comes_back_from_any_two_pieces() -> None:
    tokenizer = load_experiment(EXPERIMENT).tokenizer.build()
    tokenizer.fit(TEXT)
    for cut in range(len(TEXT)):
        pieces = [tokenizer.encode(piece) for piece in (TEXT[:cut], TEXT[cut:])]
        assert "".join(map(tokenizer.decode, pieces)) == TEXT
