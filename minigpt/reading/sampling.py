"""Change how text is drawn from a model that is trained: only the `sampling` section of its experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from minigpt.errors import ExperimentError, Problem, listing
from minigpt.experiment import Experiment, SamplingSection
from minigpt.reading.documents import overrides_as_document
from minigpt.reading.moved import refuse_moved
from minigpt.registry.overlay import lay_over
from minigpt.registry.problems import problems_of


def sampling_with(
    section: SamplingSection, overrides: Sequence[str] = (), *, max_new_tokens: int | None = None, **parameters: Any
) -> SamplingSection:
    """A copy of the section with some settings changed.

    Args:
        section: The section.
        overrides: `sampling.sampler=mirostat` and the like, as for `--set`.
        max_new_tokens: Length of a sample, after the overrides; None leaves it unchanged.
        parameters: Parameters of the sampler, after the overrides; None leaves one unchanged.

    Raises:
        ExperimentError: A setting is not one of `sampling`, or its value is not allowed.
    """
    changes = overrides_as_document(overrides)
    for path in (override.partition("=")[0].strip() for override in overrides):
        if path.split(".")[0] != "sampling":
            text = f"{path} cannot be changed here: the model is trained, and only sampling.* says how text is drawn from it"
            raise ExperimentError([Problem((), text)], "--set")
    refuse_moved(changes, "--set")
    section = _changed(section, changes)
    given = {name: value for name, value in parameters.items() if value is not None}
    sampler = section.sampler
    unknown = [
        Problem((), f'the sampler {sampler.name} has no parameter "{name}"; it has: {listing(sampler.params)}')
        for name in given
        if name not in sampler.params
    ]
    if unknown:
        raise ExperimentError(unknown)
    own = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    return _changed(section, {"sampling": {**own, **({"sampler": given} if given else {})}})


def _changed(section: SamplingSection, changes: dict[str, Any]) -> SamplingSection:
    if changes in ({}, {"sampling": {}}):
        return section  # its plugins keep the version that it was read with
    try:
        document = lay_over({"sampling": section.model_dump(mode="json")}, changes, Experiment.model_fields)
        changed = SamplingSection.model_validate(document["sampling"])
    except ValidationError as error:
        raise ExperimentError([problem.under("sampling") for problem in problems_of(error, SamplingSection)]) from error
    except RecursionError as error:
        raise ExperimentError([Problem((), "nested too deeply")], "--set") from error
    changed.sampler.build()
    return changed
