"""Text of strangers: with markup and control characters, and as it is printed."""

from __future__ import annotations

import re

from hypothesis import strategies as st

MARKUP = "[/x] [bold]b[/bold] :smile: `c` $d$ {e}"
CONTROLS = "\x1b[31m\x07\x08\r\x0b\x7f\x9b\u202e\u2066\u200f\u2028"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
ESCAPED = r"\u001b[31m\u0007\u0008\u000d\u000b\u007f\u009b\u202e\u2066\u200f\u2028"
any_text = st.text(st.characters(codec=None))
