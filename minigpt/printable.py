"""Untrusted text made safe to print: control characters are escaped, all other characters stay."""

from __future__ import annotations

import re

# C0 except tab and newline, DEL, C1, invisible characters that reorder or break lines, and half characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escape each control character, such as `\u001b`, in the same form as JSON.

    It works character by character, so the pieces of a stream give the same result as the whole text.
    """
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def printable_line(text: str) -> str:
    """Escape control characters and newlines, so that the text is one line."""
    return printable(text).replace("\n", "\\u000a")


def as_markdown(text: str) -> str:
    """Escape a text for Markdown, so that it has no emphasis, link, code, formula or HTML."""
    return re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", printable_line(text))


def as_spreadsheet(text: str) -> str:
    """Escape a text for a spreadsheet cell: an apostrophe before text that would be read as a formula."""
    safe = printable(text)
    return f"'{safe}" if safe.lstrip().startswith(("=", "+", "-", "@")) else safe
