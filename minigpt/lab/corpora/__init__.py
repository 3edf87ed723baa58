"""Compare variants on several corpora, or with more passes over less text: a comparison on each, and what they agree on."""

from minigpt.lab.corpora.comparing import ComparedCorpora, compare_corpora
from minigpt.lab.corpora.record import CorporaRecord

__all__ = ["ComparedCorpora", "CorporaRecord", "compare_corpora"]
