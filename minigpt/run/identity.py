"""The identity of a run: everything that determines its numbers. What is left out is listed with its reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from pydantic import JsonValue

from minigpt.run.recorded import JsonObject, Origin

LEFT_OUT: Mapping[str, str] = {
    "name": "only names the folder",
    "description": "is only for readers",
    "plugins": "are files whose text is counted with the parts that they register",
    "data": "is counted by the content of both splits, because the same text may be in another file",
    "sampling": "is for text that is generated after the loss was measured, with separate random numbers",
    "training.checkpoint_interval": "determines when the state is saved, which does not change the state",
    "training.checkpoint_minutes": "determines when the state is saved, which does not change the state",
    "the number of threads": "changes the order of sums but no random number; resuming compares it nevertheless",
    "the processor": "changes only rounding; it is recorded in the provenance",
    "the version of Python": "computes nothing: torch and numpy do",
    "other packages": "are counted by their results (for example a fitted tokenizer), or with the plugin that imports them",
}
"""Settings (by path, with everything below it) and other facts that are not part of a run's identity."""


@dataclass(frozen=True)
class Identity:
    """Everything that determines a run's numbers. Runs with the same identity differ only by rounding.

    Attributes:
        settings: The resolved experiment, with the seed and the precision that was used, without the keys of LEFT_OUT.
        data: Fingerprint of the content of both splits, and of where documents begin if the batching uses it.
        tokenizer: Fingerprint of the fitted tokenizer; None if there is no tokenizer.
        core: Fingerprint of the source that every training executes.
        parts: Each part that is used, with the fingerprint of its source.
        torch: Version of torch.
        numpy: Version of numpy.
        device: Kind of device, because dropout draws different random numbers on different kinds.
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
        """The identity that a run's provenance records."""
        return cls(
            settings=recorded.experiment,
            data=" ".join(filter(None, (recorded.data.fingerprint, recorded.data.documents))),
            tokenizer=recorded.data.tokenizer,
            core=recorded.core,
            parts=tuple(sorted((each.component, each.sha256 or "typed in") for each in recorded.components)),
            torch=recorded.versions.torch,
            numpy=recorded.versions.numpy,
            device=recorded.machine.device,
        )

    def with_seed(self, seed: int) -> Identity:
        """The identity of the same run with another seed."""
        return replace(self, settings={**self.settings, "seed": seed})

    def digest(self) -> str:
        """SHA-256 of the identity."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def settings_of(document: Mapping[str, JsonValue]) -> JsonObject:
    """The settings of a resolved experiment that belong to the identity, as JSON read from a file has them."""
    return dict(json.loads(json.dumps(_without_left_out(document, ""))))


def _without_left_out(section: Mapping[str, JsonValue], path: str) -> JsonObject:
    kept = {key: value for key, value in section.items() if path + key not in LEFT_OUT}
    return {
        key: _without_left_out(value, f"{path}{key}.") if isinstance(value, dict) else value for key, value in kept.items()
    }


def differing(base: JsonValue, other: JsonValue, path: str = "") -> list[tuple[str, JsonValue, JsonValue]]:
    """The differences of two JSON documents: path, first value, second value. Components of different names differ whole."""
    if base == other:
        return []
    if isinstance(base, dict) and isinstance(other, dict) and (not path or base.get("name") == other.get("name")):
        keys = [*base, *(key for key in other if key not in base)]
        each = (differing(base.get(key), other.get(key), f"{path}.{key}" if path else key) for key in keys)
        return [difference for differences in each for difference in differences]
    return [(path, base, other)]
