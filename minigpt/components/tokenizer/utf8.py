"""UTF-8 for any string and any bytes, shared by the tokenizers that work on bytes."""

from __future__ import annotations

import codecs


def to_utf8(text: str) -> bytes:
    """Bytes of a text; a lone surrogate, a character of a Python string like any other, has three of its own."""
    return text.encode("utf-8", "surrogatepass")


def from_utf8(raw: bytes) -> str:
    """Text of bytes, lone surrogates included; what is no character, or only half of one, is U+FFFD.

    Each place is read by itself, so what follows changes at most the last sign, and that only if it is U+FFFD: text may
    be streamed as its bytes arrive.
    """
    return raw.decode("utf-8", "minigpt.utf8")


def _surrogate_or_sign(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    raw = error.object[error.start : error.start + 3]
    if raw[:1] == b"\xed" and b"\xa0" <= raw[1:2] <= b"\xbf":  # Python's decoder would end the character after its ED
        if len(raw) == 2:
            return "\ufffd", error.start + 2
        if raw[2] & 0xC0 == 0x80:
            return raw.decode("utf-8", "surrogatepass"), error.start + 3
    return "\ufffd", error.end


codecs.register_error("minigpt.utf8", _surrogate_or_sign)
