"""Guessing ahead: which tokens may come next, so that one pass of the model can look at several at once."""

from __future__ import annotations

from collections.abc import Sequence

_TOGETHER, _FEWEST, _MOST = 3, 2, 16  # tokens that are looked up; guesses in one pass


class Guesses:
    """What may come next: what followed when the last three tokens stood together before (Saxena 2023, prompt lookup).

    A guess costs little, as one pass of a few tokens takes hardly longer than that of one, and a wrong one changes nothing.
    """

    def __init__(self, prompt: Sequence[int]):
        self.ids: list[int] = []
        self.after: dict[tuple[int, ...], int] = {}  # three tokens, and where the one after them stands
        self.count = _FEWEST
        for token in prompt:
            self.append(token)

    def append(self, token: int) -> None:
        """Remember what came."""
        if len(self.ids) >= _TOGETHER:
            self.after[tuple(self.ids[-_TOGETHER:])] = len(self.ids)
        self.ids.append(token)

    def next(self, free: int) -> list[int]:
        """At most `free` tokens; none where the last three are new."""
        place = self.after.get(tuple(self.ids[-_TOGETHER:]))
        guessed: list[int] = []
        while place is not None and len(guessed) < min(free, self.count):
            beyond = place + len(guessed) - len(self.ids)  # a text that goes in circles goes on so
            guessed.append(guessed[beyond] if beyond >= 0 else self.ids[beyond])
        return guessed

    def learn(self, drawn: Sequence[int], guessed: int, wrong: int) -> None:
        """Remember what was drawn; guess twice as far after guesses that were right, and half as far after a wrong one."""
        for token in drawn:
            self.append(token)
        if guessed:
            self.count = max(_FEWEST, self.count // 2) if wrong else min(2 * self.count, _MOST)
