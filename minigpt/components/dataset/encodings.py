"""Decode the bytes of text files, and refuse files that are not text.

The encoding is that of the byte-order mark, or the configured one. An error suggests a fix.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from encodings.aliases import aliases
from pathlib import Path

from minigpt.errors import DataError, nearest

_MARKS = (  # UTF-32 before UTF-16, because the mark of UTF-32-LE begins with the mark of UTF-16-LE
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_FORMATS = (  # offset, bytes at this offset, and the format of the file
    (0, b"%PDF-", "a PDF"),
    (0, b"\x89PNG\r\n\x1a\n", "an image (PNG)"),
    (0, b"\xff\xd8\xff", "an image (JPEG)"),
    (0, b"GIF87a", "an image (GIF)"),
    (0, b"GIF89a", "an image (GIF)"),
    (8, b"WEBP", "an image (WebP)"),
    (0, b"II*\0", "an image (TIFF)"),
    (0, b"MM\0*", "an image (TIFF)"),
    (0, b"PK\x03\x04", "a ZIP archive or an office document (.docx, .odt, .epub)"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document (.doc, .xls, .ppt)"),
    (0, b"{\\rtf", "a document in RTF"),
    (257, b"ustar", "a tar archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"\x1f\x8b\x08", "packed with gzip twice"),
    (0, b"\xfd7zXZ\0", "packed with xz twice"),
    (0, b"\x28\xb5\x2f\xfd", "packed with zstd twice"),
    (0, b"\x04\x22\x4d\x18", "packed with lz4"),
    (0, b"\x1f\x9d", "packed with compress (.Z)"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ\x90\0", "a program"),
    (0, b"\xcf\xfa\xed\xfe", "a program"),
    (0, b"\xca\xfe\xba\xbe", "a program"),
    (0, b"SQLite format 3\0", "a database (SQLite)"),
    (0, b"PAR1", "a table (Parquet)"),
    (0, b"\x89HDF\r\n\x1a\n", "numbers (HDF5)"),
    (0, b"\x93NUMPY", "numbers (NumPy)"),
    (0, b"OggS", "sound"),
    (0, b"ID3", "sound"),
    (0, b"fLaC", "sound"),
    (8, b"WAVE", "sound"),
    (4, b"ftyp", "a film"),
    (0, b"\x1aE\xdf\xa3", "a film"),
)

_NOISE = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0xFFFD) if chr(code) not in "\t\n\v\f\r\b\x1b\x85"]
_MOST_NOISE = 0.01

_ESCAPES = re.compile(rb"\x1b(\$[@AB]|\$\([CDOPQ]|\$\)[ACEG]|\([IJ])")
"""Escape sequences with which ISO-2022 begins Japanese, Korean or Chinese text; all bytes of such a file are ASCII."""

_ISO_2022_ENCODINGS = ("iso2022_jp", "iso2022_jp_ext", "iso2022_jp_2", "iso2022_jp_3")
"""ISO-2022 encodings that Python can read, except Korean, simplest first."""

_BYTES_BEFORE, _SAMPLE_BYTES = 1 << 12, 1 << 15
"""An encoding is guessed from a sample of at most `_SAMPLE_BYTES`, which begins `_BYTES_BEFORE` the undecodable byte."""

_PREFERRED = ("cp1251", "gbk", "big5", "shift_jis", "euc_jp", "euc_kr", "koi8_r")
"""Names to suggest first if several encodings decode a text equally."""


def check_encoding(name: str) -> None:
    """Refuse a name that is not a text encoding.

    Raises:
        ValueError: Python has no such encoding; the message suggests the nearest name.
    """
    try:
        b"a".decode(name)
    except (LookupError, ValueError) as error:  # ValueError: a NUL in the name, or a UnicodeDecodeError
        if isinstance(error, UnicodeDecodeError):  # the encoding exists, and needs more than one byte per character
            return
        known = ["latin-1", "utf-8", "utf-16", "utf-32", *aliases.values(), *aliases]
        raise ValueError(
            f'"{name}" is not a text encoding of Python; allowed: utf-8, latin-1, utf-16, gbk, ...{nearest(name, known)}'
        ) from error


def decode(raw: bytes, encoding: str, errors: str, file: Path) -> str:
    """Decode the bytes of a text file.

    Args:
        raw: The bytes.
        encoding: The file's encoding. `utf-8` also accepts a file with the byte-order mark of another encoding.
        errors: `strict`, `replace` or `any`, as the dataset's parameter.
        file: Its path, for messages.

    Raises:
        DataError: The file is not text, or not in this encoding.
    """
    if errors != "any":
        _refuse_formats(raw, file)
        _refuse_contradictions(raw, encoding, file)
    mark, encoding = _byte_order_mark(raw, encoding)
    try:
        text = raw[len(mark) :].decode(encoding, "strict" if errors == "strict" else "replace")
    except UnicodeError as error:
        start = len(mark) + getattr(error, "start", 0)
        raise DataError(_advice(raw, encoding, mark, start, file)) from error
    noise = _count_noise(text) if errors != "any" else 0
    if noise > 1 and noise > _MOST_NOISE * len(text):
        raise DataError(_advice_on_noise(raw, encoding, noise / len(text), file))
    return text


def _byte_order_mark(raw: bytes, encoding: str) -> tuple[bytes, str]:
    """The byte-order mark to remove, and the encoding of the rest."""
    name = codecs.lookup(encoding).name
    for mark, marked in _MARKS:
        if raw.startswith(mark) and name in ("utf-8", marked):
            return mark, marked
    return b"", encoding


def _refuse_formats(raw: bytes, file: Path) -> None:
    for offset, magic, what in _FORMATS:
        is_certain = not magic.decode("latin-1").isprintable() or magic in (b"%PDF-", b"{\\rtf")
        if raw.startswith(magic, offset) and (is_certain or b"\0" in raw[:1024]):  # text may begin with "ID3" too
            raise DataError(f"{file} is {what}, not text; save its text as a plain text file, or leave it out of data.paths")


def _refuse_contradictions(raw: bytes, encoding: str, file: Path) -> None:
    """Refuse bytes with another byte-order mark, with escapes of ISO-2022, or in UTF-8."""
    name = codecs.lookup(encoding).name
    marked = [marked for mark, marked in _MARKS if raw.startswith(mark)]
    if marked and name not in ("utf-8", "utf-8-sig") and not marked[0].startswith(name):
        raise DataError(
            f"{file} begins with the byte-order mark of {marked[0].upper()}, and data.encoding is {encoding}; "
            f'set data.encoding to "{marked[0]}"'
        )
    if not name.startswith("iso2022") and (escape := _ESCAPES.search(raw)):
        problem = f"{file}: the escape sequence at offset {escape.start()} is not {encoding.upper()} but ISO-2022"
        candidates = _ISO_2022_ENCODINGS if b")" not in escape[0] else ("iso2022_kr",)
        if (guess := next((name for name in candidates if _can_decode(raw, name)), None)) is None:
            raise DataError(f'{problem}; convert the file to UTF-8, or set data.errors to "any" to take it as it is')
        excerpt = _excerpt(raw, guess, escape.start())
        raise DataError(f'{problem}; set data.encoding to "{guess}" if this is right: {excerpt}')
    if name.startswith("utf-8") or marked:
        return
    is_wide = name.startswith(("utf-16", "utf-32"))
    what, guess = "", "utf-8"
    if _is_utf8(raw, is_wide):
        what = "is UTF-8"
    elif _is_damaged_utf8(raw):
        what = "is UTF-8 with damaged places"
    elif is_wide and (order := _utf16_or_utf32(raw[:_SAMPLE_BYTES])) not in (None, name, f"{name}-le"):
        what, guess = f"is {str(order).upper()}", str(order)
    if what:
        raise DataError(
            f'{file} {what}, and data.encoding is {encoding}; set data.encoding to "{guess}", '
            'or data.errors to "any" to take it as it is'
        )


def _is_utf8(raw: bytes, ascii_too: bool) -> bool:
    """Whether bytes are UTF-8 with at least one multi-byte character, or, with `ascii_too`, only ASCII."""
    if not raw or (raw.isascii() and not ascii_too) or not _can_decode(raw, "utf-8"):
        return False
    text = raw[:_SAMPLE_BYTES].decode("utf-8", "ignore")
    return _count_noise(text) <= _MOST_NOISE * len(text)


def _can_decode(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeError:
        return False
    return True


def _count_noise(text: str) -> int:
    return sum(text.count(character) for character in _NOISE)


def _advice(raw: bytes, encoding: str, mark: bytes, start: int, file: Path) -> str:
    what = f"{file}: the byte 0x{raw[start]:02x} at offset {start}" if start < len(raw) else f"{file}: its end"
    problem = f"{what} is not {encoding.upper()}"
    if mark:
        return f"{problem}, although the file begins with the byte-order mark of that encoding; convert the file to UTF-8"
    if codecs.lookup(encoding).name == "utf-8" and _is_damaged_utf8(raw):
        return f'{problem}, but the rest is; correct that place, or set data.errors to "replace" to have U+FFFD there'
    if (guess := _guess_encoding(raw, start)) is not None and codecs.lookup(guess).name != codecs.lookup(encoding).name:
        return f'{problem}; set data.encoding to "{guess}" if this is right: {_excerpt(raw, guess, start)}'
    return f"{problem}; set data.encoding to what the file was saved in, or leave it out of data.paths if it is not text"


def _advice_on_noise(raw: bytes, encoding: str, share: float, file: Path) -> str:
    problem = f"{file}: {share:.0%} of its characters are NUL, control characters or U+FFFD"
    guess = _utf16_or_utf32(raw[:_SAMPLE_BYTES]) or _guess_encoding(raw, _first_non_ascii(raw))
    if guess is not None and codecs.lookup(guess).name != codecs.lookup(encoding).name:
        return f'{problem}; set data.encoding to "{guess}" if this is right: {_excerpt(raw, guess, 0)}'
    return f'{problem}; leave it out of data.paths if it is not text, or set data.errors to "any" to take it as it is'


def _first_non_ascii(raw: bytes) -> int:
    return next((place for place, byte in enumerate(raw[: 1 << 20]) if byte >= 0x80), 0)


def _is_damaged_utf8(raw: bytes) -> bool:
    """Whether nearly all non-ASCII characters are valid UTF-8.

    Text in another encoding does not look like this.
    """
    text = raw.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    beyond_ascii = len(text) - len(text.encode("ascii", "ignore"))
    return beyond_ascii - bad > 10 * bad


def _guess_encoding(raw: bytes, place: int) -> str | None:
    """Guess the encoding of the bytes near a place; None if there is no good guess."""
    import charset_normalizer

    if multibyte := _utf16_or_utf32(raw[:_SAMPLE_BYTES]):
        return multibyte
    begin = _line_before(raw, place)
    sample = raw[begin : begin + _SAMPLE_BYTES]
    best = charset_normalizer.from_bytes(sample).best()
    if best is None or best.encoding in ("ascii", "utf_8"):
        return None
    text = str(best)
    if _is_latin(text) and (western := next((name for name in ("latin-1", "cp1252") if _is_plausible(sample, name)), None)):
        return western
    equivalent = (name for name in _PREFERRED if sample.decode(name, "replace") == text)
    return next(equivalent, best.encoding)


def _is_latin(text: str) -> bool:
    return all(unicodedata.name(letter, "").startswith("LATIN") for letter in set(text) if letter.isalpha())


def _is_plausible(sample: bytes, encoding: str) -> bool:
    """Whether all non-ASCII characters are letters or common punctuation.

    A wrong code page gives other ones.
    """
    characters = {character for character in sample.decode(encoding, "replace") if not character.isascii()}
    return all(
        character.isalpha() or unicodedata.category(character) in ("Pi", "Pf", "Pd", "Zs") or character in "…€£§°¡¿"
        for character in characters
    )


def _utf16_or_utf32(sample: bytes) -> str | None:
    """Detect UTF-16 or UTF-32 without a byte-order mark; None for anything else.

    In the right byte order such text has ordinary spaces and hardly any rare character.
    """
    for name, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        text = sample[: len(sample) // width * width].decode(name, "replace")
        spaces = sum(text.count(character) for character in " \n\u3000\u3001\u3002\uff0c")
        rare = sum(unicodedata.category(each) in ("Cc", "Cn", "Co", "Cs") or each == "\ufffd" for each in text)
        rare -= sum(map(text.count, "\t\n\r"))
        if spaces >= 0.01 * len(text) > 0 and rare <= 0.02 * len(text):
            return name
    return None


def _excerpt(raw: bytes, encoding: str, place: int) -> str:
    """Some of the text around a place, decoded."""
    text = raw[_line_before(raw, place) : place + 40].decode(encoding, "ignore")
    return repr(" ".join(text.split())[-60:])


def _line_before(raw: bytes, place: int) -> int:
    """The start of a line before a place.

    A line starts with a whole character; another offset may be in the middle of one.
    """
    begin = max(0, place - _BYTES_BEFORE)
    return raw.rfind(b"\n", 0, begin) + 1 if begin else 0
