"""UTF-8 for any string and any bytes, shared by the byte tokenizers."""

from __future__ import annotations

import codecs


def to_utf8(text: str) -> bytes:
    """The bytes of a text; each lone surrogate, which a Python string may have, gives three bytes."""
    return text.encode("utf-8", "surrogatepass")


def from_utf8(raw: bytes) -> str:
    """The text of bytes, lone surrogates included; bytes that are not a complete character become U+FFFD.

    Later bytes change at most the last character, and only if it is U+FFFD. So text can be streamed as its bytes arrive.
    """
    return raw.decode("utf-8", "minigpt.utf8")


def _surrogate_or_sign(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    raw = error.object[error.start : error.start + 3]
    if raw[:1] == b"\xed" and b"\xa0" <= raw[1:2] <= b"\xbf":  # Python's decoder would end the character after ED
        if len(raw) == 2:
            return "\ufffd", error.start + 2
        if raw[2] & 0xC0 == 0x80:
            return raw.decode("utf-8", "surrogatepass"), error.start + 3
    return "\ufffd", error.end


codecs.register_error("minigpt.utf8", _surrogate_or_sign)
