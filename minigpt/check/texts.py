"""Texts to try tokenizers with."""

from __future__ import annotations

ORDINARY = """The keeper of the lighthouse wrote in her book: "Wind NW, force 7; two ships passed at 04:15."
She didn't sleep. At 5 o'clock the lamp was out -- the oil, 12.50 a barrel, had run dry -- and nobody in
Port-Étienne had noticed.  The KEEPER's brother, who was the captain of the second ship, noticed at once.

	"Where is the light?" he asked; "we've sailed 1,204 miles, and there's no light!"
"Perhaps," said the mate, "the keeper is asleep." The captain laughed: his sister never slept. He
called for lanterns, and they sailed past the rocks, past the old lighthouse, into the harbour of the town.
In the morning she wrote: "Oil. OIL! 3 barrels (or 4), e-mail to the harbour: keeper_7@port.example/oil?n=3".
"""
"""A passage with everything that ordinary text has; the words that come again let frequencies be learned."""

_SYLLABLES = ("ka", "lor", "Mi", "ten", "ush", "ø", "bra", "7", "vel", "don", "-", "st", "éa", "qui", "zep", "nor", "GA")


def many_words() -> str:
    """The passage, and after it words enough for a vocabulary of thousands, the early ones more often than the late."""
    size = len(_SYLLABLES)
    spelt = (_SYLLABLES[n % size] + _SYLLABLES[n // size % size] + _SYLLABLES[n * n % size] for n in range(1200))
    return ORDINARY + "\n".join(f"{word} {word.lower()}" * (1 + 600 // (n + 40)) for n, word in enumerate(spelt))


SAMPLE = "Captain Thorbjørn's 3 sisters KEPT 98765 quixotic lanterns; the keeper's light wasn't out?!  \n\tYes -- at 04:15."
"""A sentence with words that the passage has and that it has not."""

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
    "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029",  # what str.splitlines takes for the end of a line
    "\xa0\u3000\u200b\u2060\ufeff",  # white space, and what looks like it
    "\0",
    "a\0b",
    "\x7f\x80\xff",
    "\ufffd",  # the sign for what is no text is text itself
    "\uffff\U0010ffff",
    "é",
    "e\u0301",
    "Å\u212bA\u030a",  # three ways to write one letter
    "ﬁ²①ſ",  # what NFKC writes otherwise
    "한\u1112\u1161\u11ab",
    "q\u0323\u0307 q\u0307\u0323",  # marks in an order that normalising changes
    "ABC İıẞßǅςΣ",  # capitals whose small letters are others, or more
    "0123456789 ١٢٣ 1,000.50",
    "can't 'S I'LL -- ... !?",
    "👩\u200d👩\u200d👧\u200d👦",
    "🏳️\u200d🌈🇨🇭👍🏽",
    "שלום עולם, مرحبا \u202eabc\u202c",
    "中文字符 ไทย हिन्दी",
    "<|endoftext|><unk>[UNK]<s></s>",
    "##ing ▁the Ġthe Ċ </w> @@ \\n",  # what other tokenizers write for their own ends
    "\ud800",
    "\udfff\ud800",
    "\ud83d\ude00",  # the halves of a character, not joined
)
"""Texts that mistakes show in."""

EVERYTHING = ORDINARY + "".join(text for text in FRAGMENTS if text.isprintable()) + "".join(map(chr, range(0x250)))
"""The passage, what can be printed of the fragments, and the first few hundred characters of all."""

LONG = ("a" * 1500, " " * 1500, "\n" * 1500, "ab" * 700)
"""Runs that patterns may be slow at."""

NEW = "𓂀𓆣"
"""In no other text here: what is learned of it was not learned before."""
