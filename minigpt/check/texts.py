"""Texts for checking tokenizers."""

from __future__ import annotations

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
