"""Guesses of the next tokens (prompt lookup), so that one pass of the model can check several at once."""

from __future__ import annotations

from collections.abc import Sequence

_TOGETHER, _FEWEST, _MOST = 3, 2, 16  # length of the looked-up n-gram; fewest and most guesses in one pass


class Guesses:
    """Guesses the next tokens: those that followed the same three tokens before (Saxena 2023, prompt lookup).

    A guess costs little, because a pass of a few tokens is hardly slower than a pass of one. A wrong guess changes nothing.
    """

    def __init__(self, prompt: Sequence[int]):
        self.ids: list[int] = []
        self.after: dict[tuple[int, ...], int] = {}  # three tokens -> index of the token after their last occurrence
        self.count = _FEWEST
        for token in prompt:
            self.append(token)

    def append(self, token: int) -> None:
        """Append a drawn token."""
        if len(self.ids) >= _TOGETHER:
            self.after[tuple(self.ids[-_TOGETHER:])] = len(self.ids)
        self.ids.append(token)

    def next(self, free: int) -> list[int]:
        """At most `free` guesses; none if the last three tokens are new."""
        place = self.after.get(tuple(self.ids[-_TOGETHER:]))
        guessed: list[int] = []
        while place is not None and len(guessed) < min(free, self.count):
            beyond = place + len(guessed) - len(self.ids)  # past the end of the text: a repetition continues with itself
            guessed.append(guessed[beyond] if beyond >= 0 else self.ids[beyond])
        return guessed

    def learn(self, drawn: Sequence[int], guessed: int, wrong: int) -> None:
        """Append drawn tokens. Guess twice as far after correct guesses, half as far after a wrong one."""
        for token in drawn:
            self.append(token)
        if guessed:
            self.count = max(_FEWEST, self.count // 2) if wrong else min(2 * self.count, _MOST)
