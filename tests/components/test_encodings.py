"""Bytes to text: byte order marks, formats, guesses and refusals."""

from __future__ import annotations

import codecs
import io
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minigpt.components.dataset import compressed
from minigpt.components.dataset.encodings import decode
from minigpt.errors import DataError

FILE = Path("corpus.txt")
FRENCH = "Le garçon a mangé à la fenêtre, où la forêt était déjà très calme; ç'était l'été.\n" * 20
GERMAN = "Die Straße führt über die Brücke, und größere Häuser stehen öfter daneben. Schöne Grüße!\n" * 20
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n" * 20
CHINESE = "学而时习之,不亦说乎?有朋自远方来,不亦乐乎?人不知而不愠,不亦君子乎?我们在这里写一些普通的中文句子。\n" * 20
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。\n" * 20
)
ENGLISH = "It was the best of times, it was the worst of times, it was the age of wisdom.\n" * 20


def refusal(raw: bytes, encoding: str = "utf-8", errors: str = "strict") -> str:
    with pytest.raises(DataError) as refused:
        decode(raw, encoding, errors, FILE)
    line = str(refused.value)
    assert len(line.splitlines()) == 1
    assert line.startswith("corpus.txt")
    return line


PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",), exclude_characters="\ufeff\ufffd"), max_size=60)
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@given(PLAIN, st.sampled_from(list(MARKED)), st.booleans())
def test_a_byte_order_mark_sets_the_encoding_and_is_not_part_of_the_text(text: str, encoding: str, named: bool) -> None:
    raw = MARKED[encoding] + text.encode(encoding)
    assert decode(raw, encoding if named else "utf-8", "strict", FILE) == text


CODECS = [
    "utf-8",
    "utf-16",
    "utf-16-le",
    "utf-32-be",
    "utf-7",
    "latin-1",
    "cp1251",
    "gbk",
    "gb18030",
    "big5",
    "euc_kr",
    "shift_jis",
]


def is_utf8(raw: bytes) -> bool:
    return raw.decode("utf-8", "ignore").encode() == raw


@given(PLAIN, st.sampled_from(CODECS))
def test_text_is_read_in_the_encoding_that_is_set(text: str, encoding: str) -> None:
    try:
        raw = text.encode(encoding)
        assume(raw.decode(encoding) == text)  # shift_jis has two characters for one byte
    except UnicodeEncodeError:
        assume(False)
    assume(not raw.startswith((b"%PDF-", *MARKED.values())) or encoding == "utf-16")
    is_wide = encoding.startswith(("utf-16", "utf-32"))
    assume(encoding == "utf-8" or not is_utf8(raw) or b"\0" in raw or (raw.isascii() and not is_wide))
    assert decode(raw, encoding, "strict", FILE) == text


@pytest.mark.parametrize(
    ("text", "encoding", "advised", "shown"),
    [
        (FRENCH, "latin-1", "latin-1", "garçon"),
        (GERMAN, "latin-1", "latin-1", "Straße führt"),
        (FRENCH.replace("'", "\u2019"), "cp1252", "cp1252", "garçon"),
        (RUSSIAN, "cp1251", "cp1251", "счастливые"),
        (RUSSIAN, "koi8_r", "koi8_r", "счастливые"),
        (CHINESE, "gbk", "gbk", "学而时习之"),
        (CHINESE, "gb18030", "gbk", "学而时习之"),
        (JAPANESE, "shift_jis", "shift_jis", "吾輩"),
        (JAPANESE, "euc_jp", "euc_jp", "吾輩"),
        *((text, "utf-16-le", "utf-16-le", text[:10]) for text in (ENGLISH, FRENCH, RUSSIAN, CHINESE, JAPANESE)),
        *((text, "utf-16-be", "utf-16-be", text[:10]) for text in (ENGLISH, FRENCH, RUSSIAN, CHINESE, JAPANESE)),
        (ENGLISH, "utf-32-le", "utf-32-le", "It was"),
        (CHINESE, "utf-32-be", "utf-32-be", "学而"),
    ],
)
def test_the_first_advice_is_the_encoding_of_the_file(text: str, encoding: str, advised: str, shown: str) -> None:
    line = refusal(text.encode(encoding))
    assert f'; set data.encoding to "{advised}" if this is right: ' in line
    assert shown[:5] in line
    assert "replace" not in line
    assert decode(text.encode(encoding), advised, "strict", FILE) == text


OTHERS = [
    "latin-1",
    "cp1252",
    "cp1251",
    "gbk",
    "gb18030",
    "big5",
    "shift_jis",
    "utf-16",
    "utf-16-be",
    "utf-32",
    "utf-7",
    "iso2022_jp",
    "iso2022_kr",
]


@pytest.mark.parametrize("encoding", OTHERS)
@pytest.mark.parametrize("errors", ["strict", "replace", "any"])
@pytest.mark.parametrize("text", [FRENCH, RUSSIAN, CHINESE, ENGLISH + "\u201cone\u201d", 40 * ENGLISH + "\u201cone\u201d"])
def test_utf8_read_as_another_encoding_is_refused_unless_errors_is_any(encoding: str, errors: str, text: str) -> None:
    if errors == "any":
        assert decode(text.encode(), encoding, errors, FILE) != text
        return
    line = refusal(text.encode(), encoding, errors)
    assert line.startswith(f'corpus.txt is UTF-8, and data.encoding is {encoding}; set data.encoding to "utf-8", ')


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_ascii_read_as_utf16_or_utf32_is_refused(encoding: str) -> None:
    for text in (ENGLISH, "abcdefgh"):
        assert "is UTF-8, and data.encoding is utf-" in refusal(text.encode(), encoding)
        assert decode(text.encode(encoding), encoding, "strict", FILE) == text
    assert decode(RUSSIAN.encode("utf-16-be"), "utf-16-be", "strict", FILE) == RUSSIAN, "its bytes are nearly all ASCII"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp1251"])
@pytest.mark.parametrize("text", [FRENCH, RUSSIAN, CHINESE])
def test_utf8_with_damaged_places_read_as_another_encoding_is_refused(encoding: str, text: str) -> None:
    raw = 20 * text.encode() + b"\xe9 " + text.encode()
    assert f"is UTF-8 with damaged places, and data.encoding is {encoding}; " in refusal(raw, encoding)
    assert len(decode(raw, encoding, "any", FILE)) == len(raw)


@pytest.mark.parametrize(
    ("saved_in", "encoding"), [("utf-16-be", "utf-16"), ("utf-16-be", "utf-16-le"), ("utf-32-be", "utf-32")]
)
def test_the_other_byte_order_is_refused(saved_in: str, encoding: str) -> None:
    for text in (ENGLISH, RUSSIAN):
        line = refusal(text.encode(saved_in), encoding)
        assert f'data.encoding is {encoding}; set data.encoding to "{saved_in}"' in line or "is not UTF-32" in line
        assert decode(text.encode(saved_in), saved_in, "strict", FILE) == text
        assert decode(text.encode(f"{encoding[:6]}-le"), encoding, "strict", FILE) == text


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "gbk", "utf-16", "utf-32-be", "koi8_r", "ascii"])
@pytest.mark.parametrize("marked", MARKED)
@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_a_mark_that_contradicts_the_encoding_is_refused(encoding: str, marked: str, text: str) -> None:
    raw = MARKED[marked] + text.encode(marked)
    if marked.startswith(encoding):
        assert decode(raw, encoding, "strict", FILE) == text
        return
    line = refusal(raw, encoding)
    assert (
        f'the byte-order mark of {marked.upper()}, and data.encoding is {encoding}; set data.encoding to "{marked}"' in line
    )


@pytest.mark.parametrize(
    ("text", "saved_in", "advised"),
    [
        (JAPANESE, "iso2022_jp", "iso2022_jp"),
        ("\uff76\uff85 " + JAPANESE, "iso2022_jp_ext", "iso2022_jp_ext"),
        ("안녕하세요\n" * 20, "iso2022_kr", "iso2022_kr"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "gbk", "utf-16", "utf-16-be", "utf-32"])
def test_escapes_of_iso2022_are_refused(text: str, saved_in: str, advised: str, encoding: str) -> None:
    line = refusal(text.encode(saved_in), encoding)
    assert f'is not {encoding.upper()} but ISO-2022; set data.encoding to "{advised}" if this is right: ' in line
    assert text[:5] in line
    assert decode(text.encode(saved_in), advised, "strict", FILE) == text
    assert "convert the file to UTF-8" in refusal(b"\x1b$)A\x0e=;\x0f\n", encoding), "Python has no ISO-2022-CN"


@pytest.mark.parametrize(("encoding", "more"), [("latin-1", b"caf\xe9\n"), ("utf-8", "é\n".encode())])
def test_escapes_of_iso2022_are_refused_beside_other_text_too(encoding: str, more: bytes) -> None:
    assert "but ISO-2022" in refusal(JAPANESE.encode("iso2022_jp") + more, encoding)


def test_one_damaged_place_in_utf8_is_not_taken_for_another_encoding() -> None:
    raw = bytearray(RUSSIAN.encode())
    raw[1001] = 0xFF
    line = refusal(bytes(raw))
    assert "is not UTF-8, but the rest is; correct that place, or set data.errors to" in line
    assert decode(bytes(raw), "utf-8", "replace", FILE).count("\ufffd") == 2


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "is a PDF, not text; save its text as a plain text file"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is an image (PNG)"),
        (b"PK\x03\x04\x14\0\x06\0", "is a ZIP archive or an office document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", "is an office document"),
        (b"\x7fELF\x02\x01\x01\0", "is a program"),
        (b"SQLite format 3\0\x10", "is a database"),
        (b"{\\rtf1\\ansi Hello}", "is a document in RTF"),
        (b"x" * 257 + b"ustar\0", "is a tar archive"),
        (b"\x1f\x8b\x08\0", "is packed with gzip twice"),
        (b"ID3\x03\0\0", "is sound"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_file_of_another_format_is_named(raw: bytes, words: str, encoding: str) -> None:
    assert words in refusal(raw, encoding)


def test_text_may_begin_like_another_format() -> None:
    for text in ("ID3 is a kind of tag.", "PAR1 and PAR2", "GIF89a is a format", "MZ", "BZh", "RIFF"):
        assert decode(text.encode(), "utf-8", "strict", FILE) == text


@pytest.mark.parametrize("noise", ["\0", "\x01", "\x7f", "\x80", "\ufffd"])
@pytest.mark.parametrize("errors", ["strict", "replace", "any"])
def test_text_with_more_than_one_per_cent_noise_is_refused_unless_errors_is_any(noise: str, errors: str) -> None:
    text = "0123456789" * 20 + noise * 2
    assert decode(text.encode(), "utf-8", errors, FILE) == text, "1 % is accepted"
    many = text + noise
    if errors == "any":
        assert decode(many.encode(), "utf-8", errors, FILE) == many
        return
    assert "1% of its characters are NUL, control characters or U+FFFD; " in refusal(many.encode(), errors=errors)


def test_replacing_does_not_turn_another_encoding_into_noise() -> None:
    assert 'set data.encoding to "latin-1"' in refusal(FRENCH.encode("latin-1"), errors="replace")
    assert 'set data.encoding to "utf-16-le"' in refusal(ENGLISH.encode("utf-16-le"), errors="replace")


def test_escapes_and_form_feeds_are_text() -> None:
    text = "\x1b[1mbold\x1b[0m\f\b\v\t\r\n\x85"
    assert decode(text.encode(), "utf-8", "strict", FILE) == text


MANY_BYTES = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.binary(max_size=6), st.integers(1, 200)).map(lambda pair: pair[0] * pair[1]),
    st.tuples(PLAIN, st.sampled_from(CODECS)).map(lambda pair: pair[0].encode(pair[1], "ignore") * 20),
    st.tuples(st.sampled_from([*MARKED.values()]), st.binary(max_size=60)).map(b"".join),
)


@given(MANY_BYTES, st.sampled_from(CODECS), st.sampled_from(["strict", "replace", "any"]))
def test_any_bytes_in_any_encoding_are_text_or_a_one_line_error(raw: bytes, encoding: str, errors: str) -> None:
    try:
        text = decode(raw, encoding, errors, FILE)
    except DataError as error:
        line = str(error)
        text = None
    if text is None:
        assert errors != "any"
        assert len(line.splitlines()) == 1
        assert len(line) < 400
        assert "Error" not in line


def test_a_file_that_gives_no_bytes_yet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So are some files of /proc, which count as ordinary ones: reading them without waiting returns None."""
    (tmp_path / "a.txt").write_text("text")

    class Waiting(io.FileIO):
        def read(self, size: int | None = -1) -> bytes | None:  # type: ignore[override]
            return None

    monkeypatch.setattr(compressed, "open", lambda file, mode, opener: Waiting(file, mode), raising=False)
    with pytest.raises(DataError, match="a.txt has no content yet, and is not waited for"):
        compressed.read_unpacked(tmp_path / "a.txt", 100)
