"""What a run's numbers follow from, and what is left out of that, each with its reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from pydantic import JsonValue

from minigpt.run.recorded import JsonObject, Origin

LEFT_OUT: Mapping[str, str] = {
    "name": "names the folder",
    "description": "is for readers",
    "plugins": "are files: their text counts with the parts that they give",
    "data": "counts by its content, the text or rows of both splits: the same text may lie elsewhere",
    "sampling": "is for text that is drawn after the loss was measured, from random numbers of its own",
    "training.checkpoint_interval": "says when the state is saved, which changes nothing in it",
    "training.checkpoint_minutes": "likewise",
    "the number of threads": "changes the order of sums and no random number; resuming compares it all the same",
    "the processor": "likewise changes rounding only, and a run says on which it was trained",
    "the version of Python": "computes nothing: torch and numpy do",
    "other packages": "such as tokenizers count by what they learned; what a foreign part imports counts with it",
}
"""Settings of an experiment (by path, with all below), and other things, that are not part of a run's identity."""


@dataclass(frozen=True)
class Identity:
    """All that a run's numbers follow from: runs that are equal in it have the same numbers, but for rounding.

    Attributes:
        settings: The resolved experiment without what is left out; with the seed, and with the precision that was used.
        data: Fingerprint of both splits' content.
        tokenizer: Fingerprint of what the tokenizer learned; None where there is none.
        core: Fingerprint of the source that every training goes through.
        parts: Each part that is used, with the fingerprint of its source.
        torch: Its version.
        numpy: Likewise.
        device: The kind of device: dropout draws other random numbers on another.
    """

    settings: JsonObject
    data: str
    tokenizer: str | None
    core: str
    parts: tuple[tuple[str, str], ...]
    torch: str
    numpy: str
    device: str

    @classmethod
    def of(cls, recorded: Origin) -> Identity:
        """From a run's provenance."""
        return cls(
            settings=recorded.experiment,
            data=recorded.data.fingerprint,
            tokenizer=recorded.data.tokenizer,
            core=recorded.core,
            parts=tuple(sorted((each.component, each.sha256 or "typed in") for each in recorded.components)),
            torch=recorded.versions.torch,
            numpy=recorded.versions.numpy,
            device=recorded.machine.device,
        )

    def with_seed(self, seed: int) -> Identity:
        """That of the same run with another seed."""
        return replace(self, settings={**self.settings, "seed": seed})

    def digest(self) -> str:
        """SHA-256 of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def settings_of(document: Mapping[str, JsonValue]) -> JsonObject:
    """What of a resolved experiment's JSON belongs to the identity, in the form in which a file gives it back."""
    return dict(json.loads(json.dumps(_without_left_out(document, ""))))


def _without_left_out(section: Mapping[str, JsonValue], path: str) -> JsonObject:
    kept = {key: value for key, value in section.items() if path + key not in LEFT_OUT}
    return {
        key: _without_left_out(value, f"{path}{key}.") if isinstance(value, dict) else value for key, value in kept.items()
    }


def differing(base: JsonValue, other: JsonValue, path: str = "") -> list[tuple[str, JsonValue, JsonValue]]:
    """Where two JSON documents differ: path, value there, value here; a component of another name counts as a whole."""
    if base == other:
        return []
    if isinstance(base, dict) and isinstance(other, dict) and (not path or base.get("name") == other.get("name")):
        keys = [*base, *(key for key in other if key not in base)]
        each = (differing(base.get(key), other.get(key), f"{path}.{key}" if path else key) for key in keys)
        return [difference for differences in each for difference in differences]
    return [(path, base, other)]
