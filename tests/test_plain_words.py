"""Plain technical English: the words on the left are not used in code, docs or messages. A reader learns them nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTEAD = {
    r"\btold\b|(?<!cannot )(?<!\.)\btells?\b|\btelling\b": "reports, shows, says",
    r"\bgo(es|ing|ne)? on\b|\bwent on\b": "continue, resume",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bsittings?\b|\bsits?\b": "session",
    r"\bbr(eak|eaks|eaking|oken|oke) off\b": "interrupt",
    r"\barms?\b": "variant",
    r"\bgood for nothing\b": "unusable",
    r"\blost\b": "failed; or name what is missing",
    r"\bat home (on|in)\b": "targets",
    r"\bnever yet\b": "not yet",
    r"\bcom(e|es|ing) to (a|an|its|no)\b|\bcame to (a|an|its|no)\b": "reaches, ends",
    r"\b(by|of) (itself|themselves|its own|their own)\b": "separately, own",
    r"\bthe ones? that\b|\bsuch as are\b|\bwhat (is|was) there\b": "name the thing",
    r", for (it|they|there|this|that|these|those|he|she|nobody|nothing|what|which|no|one)\b": "because",
    r"\b_?(told|said|sit|calm|wide|elsewhere)\b(?=\s*[(=:])": "a name says what the value is",
}
QUOTES = {"CHANGELOG.md", "docs/results", "tests/test_plain_words.py"}
"""What is history, or has the words on its list."""


def sources() -> list[Path]:
    folders = ("minigpt", "plugins", "tests", "benchmarks", "docs", "scripts", ".github")
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*")) if file.is_file()]
    kinds = (".py", ".md", ".j2", ".yml", ".yaml", "")
    return [file for file in [*files, *ROOT.glob("*.md")] if file.suffix in kinds and "__pycache__" not in file.parts]


@pytest.mark.parametrize("words", INSTEAD)
def test_a_word_that_a_newcomer_stumbles_over_is_not_used(words: str) -> None:
    found = []
    for file in sources():
        place = file.relative_to(ROOT).as_posix()
        if not place.startswith(tuple(QUOTES)):
            for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
                if match := re.search(words, line.replace("_", " ") if "def test_" in line else line, re.IGNORECASE):
                    found.append(f'{place}:{number}: "{match[0]}": {INSTEAD[words]}')
    assert found == []
