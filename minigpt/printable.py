"""Text of strangers, made safe to print: control characters are escaped, and everything else is left as it is."""

from __future__ import annotations

import re

# C0 but for tab and newline, DEL, C1, the signs that reorder or break lines unseen, and halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with each control character as `\u001b`, which is what JSON writes for it as well.

    Works character by character, so the pieces of a stream give what the whole text gives.
    """
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def printable_line(text: str) -> str:
    """The same on one line: a newline is escaped too."""
    return printable(text).replace("\n", "\\u000a")


def as_markdown(text: str) -> str:
    """The text in Markdown, letter for letter: no emphasis, link, code, formula or HTML in it."""
    return re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", printable_line(text))


def as_spreadsheet(text: str) -> str:
    """The text in a cell of a spreadsheet, which takes what begins like a formula for one: an apostrophe goes before it."""
    safe = printable(text)
    return f"'{safe}" if safe.lstrip().startswith(("=", "+", "-", "@")) else safe
