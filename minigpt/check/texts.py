"""Texts for checking tokenizers."""

from __future__ import annotations

import functools
import itertools
import string

ORDINARY = """The keeper of the lighthouse wrote in her book: "Wind NW, force 7; two ships passed at 04:15."
She didn't sleep. At 5 o'clock the lamp was out -- the oil, 12.50 a barrel, had run dry -- and nobody in
Port-Étienne had noticed.  The KEEPER's brother, who was the captain of the second ship, noticed at once.

	"Where is the light?" he asked; "we've sailed 1,204 miles, and there's no light!"
"Perhaps," said the mate, "the keeper is asleep." The captain laughed: his sister never slept. He
called for lanterns, and they sailed past the rocks, past the old lighthouse, into the harbour of the town.
In the morning she wrote: "Oil. OIL! 3 barrels (or 4), e-mail to the harbour: keeper_7@port.example/oil?n=3".
"""
"""A passage with the usual features of text; repeated words make frequencies learnable."""

_SYLLABLES = ("ka", "lor", "Mi", "ten", "ush", "ø", "bra", "7", "vel", "don", "-", "st", "éa", "qui", "zep", "nor", "GA")


def many_words() -> str:
    """Return the passage and enough words for a vocabulary of thousands, with falling frequencies."""
    size = len(_SYLLABLES)
    words = (_SYLLABLES[n % size] + _SYLLABLES[n // size % size] + _SYLLABLES[n * n % size] for n in range(1200))
    return ORDINARY + "\n".join(f"{word} {word.lower()}" * (1 + 600 // (n + 40)) for n, word in enumerate(words))


SAMPLE = "Captain Thorbjørn's 3 sisters KEPT 98765 quixotic lanterns; the keeper's light wasn't out?!  \n\tYes -- at 04:15."
"""A sentence with words from the passage and words that are not in it."""

_PRONOUNS = ("I", "you", "He", "she", "it", "we", "They", "that", "there", "who", "let")
_VERBS = ("Do", "does", "did", "is", "are", "was", "has", "have", "had", "wo", "ca", "could", "would", "should", "sha", "ai")
_CONTRACTIONS = " ".join(
    [f"{pronoun}'{verb}" for pronoun in _PRONOUNS for verb in ("m", "s", "d", "ll", "ve", "re")]
    + [f"{verb}n't" for verb in _VERBS]
)

FRAGMENTS = (
    "",
    "a",
    "the",
    " ",
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    "\t",
    "  ",
    " end ",
    "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029",  # line ends of str.splitlines
    "\xa0\u3000\u200b\u2060\ufeff",  # white space and similar characters
    "\0",
    "a\0b",
    "\x7f\x80\xff",
    "\ufffd",  # the replacement character is valid text too
    "\uffff\U0010ffff",
    "é",
    "e\u0301",
    "Å\u212bA\u030a",  # three ways to write one letter
    "ﬁ²①ſ",  # changed by NFKC
    "한\u1112\u1161\u11ab",
    "q\u0323\u0307 q\u0307\u0323",  # normalisation reorders these marks
    "ABC İıẞßǅςΣ",  # capitals with unusual or longer lower case
    "0123456789 ١٢٣ 1,000.50",
    "can't 'S I'LL -- ... !?",
    "👩\u200d👩\u200d👧\u200d👦",
    "🏳️\u200d🌈🇨🇭👍🏽",
    "שלום עולם, مرحبا \u202eabc\u202c",
    "中文字符 ไทย हिन्दी",
    "<|endoftext|><unk>[UNK]<s></s>",
    "##ing ▁the Ġthe Ċ </w> @@ \\n",  # markers of other tokenizers
    "“Don’t,” she said – ‘it’s … a «test» — „ja“.",
    "-‐‑‒–—―−",
    "\"“”„‟″«»‹› '‘’‚‛′`´ …",
    "y'all 'tis rock'n'roll o'clock cannot gonna gimme d'you o' dogs' dogs’ ’tis",
    _CONTRACTIONS,
    _CONTRACTIONS.replace("'", "’"),
    _CONTRACTIONS.replace("'", " "),
    _CONTRACTIONS.upper(),
    "it 's a dog , `` quoted '' ( so ) . [ x ] do n't",
    "McDonald iPhone eBay LaTeX NaN O'Neil XMLHttpRequest aB Ab",
    "007 00 -0 +1 1_000 1e5 0x1F ½ ３",
    "&amp; &lt;b&gt; &#39; &quot; &nbsp; %20 + \\u0041 \\x41 \\t {0} {} %s $1 :smile:",
    "[CLS][SEP][PAD][MASK]<pad><bos><eos><0x0A><mask>",
    "a  b   c \n  d\te \n\n\n f ",
    "end.\n",
    "\ufeffThe",  # a byte order mark
    "\ue000\ue001a\uf8ffA\U000f0000\U0010fffd",  # private use
    "\ufdd0\ufdef\ufffe\U0001fffe",  # no characters
    "A\xadB\u200cC\u200dD\ufe0f\u2063",
    "\ud800",
    "\udfff\ud800",
    "\ud83d\ude00",  # a surrogate pair as two separate code points
)
"""Texts that reveal common mistakes."""

EVERYTHING = ORDINARY + "".join(text for text in FRAGMENTS if text.isprintable()) + "".join(map(chr, range(0x250)))
"""The passage, the printable fragments, and the first few hundred Unicode characters."""

LONG = ("a" * 1500, " " * 1500, "\n" * 1500, "ab" * 700)
"""Repetitions that can make regular expressions slow."""

NEW = "𓂀𓆣"
"""Characters that no other text here contains, so that learning them is visible."""

MANY = 70_001
"""More symbols than 16 bits can number."""


_PLANES = (0x1F300, 0xE0000, 0xF0000, 0x100000)
"""Pictures, tags and private use."""


@functools.cache
def many_symbols() -> str:
    """Return a text of `MANY` different characters and more, with symbols and private-use characters beside letters."""
    characters = [*map(chr, (*range(0xD800), *range(0xE000, MANY + 0x800)))]
    rare = (range(0x2000, 0x2C00), range(0xE000, 0xF900), *(range(plane, plane + 0x200) for plane in _PLANES))
    beside_letters = [chr(code) for codes in rare for code in (*codes, 0x10FFFD)]
    return "".join([*characters, *(f"{character}a{character}A" for character in beside_letters)])


@functools.cache
def many_pieces() -> str:
    """Return a text of `MANY` different words, of an odd length."""
    words = itertools.islice(itertools.product(string.ascii_letters, repeat=3), MANY)
    return " ".join(map("".join, words))


@functools.cache
def long_text() -> str:
    """Return a text of more than 2^17 characters, an odd number, with more than 2^16 spaces in a row."""
    return (ORDINARY * 140)[: 1 << 17] + " " * 65_540 + "end"
