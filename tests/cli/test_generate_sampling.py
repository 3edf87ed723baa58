"""`minigpt generate --set sampling.*`: other samplers, stop strings, and what cannot be changed in a trained run."""

from __future__ import annotations

from pathlib import Path

import pytest

from minigpt import generate, open_run, stream
from tests.conftest import Command

CYCLE = '''
from minigpt import register
from minigpt.contracts import Sampler

@register("sampler", "cycle")
class Cycle(Sampler):
    """The ids 0, 1, 2, … in turn.

    Args:
        first: Where it begins.
    """

    def __init__(self, *, first: int = 0):
        self.first = first

    def probabilities(self, logits, ids, memory):
        found = logits.double().zero_()
        found[(self.first + len(ids)) % len(found)] = 1
        return found
'''
FEW = ["--seed", "1", "--max-new-tokens", "60"]


def test_another_sampler_and_its_parameters_can_be_set(minigpt: Command, trained: Path) -> None:
    plain = minigpt("generate", trained, "ROMEO", *FEW)[1]
    texts = {plain}
    for changes in (["mirostat"], ["mirostat", "tau=0.5"], ["repetition_penalty"], ["repetition_penalty", "penalty=5"]):
        settings = [f"sampling.sampler={changes[0]}", *(f"sampling.sampler.{change}" for change in changes[1:])]
        code, out, err = minigpt(
            "generate", trained, "ROMEO", *FEW, *(word for each in settings for word in ("--set", each))
        )
        assert (code, err) == (0, "")
        texts.add(out)
    assert len(texts) == 5
    inner = ["--set", "sampling.sampler=repetition_penalty", "--set", "sampling.sampler.penalty=1"]
    assert minigpt("generate", trained, "ROMEO", *FEW, *inner)[1] == plain


def test_options_change_the_sampler_after_set(minigpt: Command, trained: Path) -> None:
    one = minigpt("generate", trained, "ROMEO", *FEW, "--top-k", "2", "--temperature", "0.5")[1]
    settings = ["sampling.sampler.temperature=0.5", "sampling.sampler.top_k=9", "sampling.max_new_tokens=3"]
    changes = [word for each in settings for word in ("--set", each)]
    assert minigpt("generate", trained, "ROMEO", *FEW, *changes, "--top-k", "2")[1] == one


def test_the_prompt_and_the_length_can_be_set_too(minigpt: Command, trained: Path) -> None:
    code, out, _ = minigpt(
        "generate", trained, "--seed", "1", "--set", "sampling.prompt=ROMEO", "--set", "sampling.max_new_tokens=7"
    )
    assert code == 0
    assert out.startswith("ROMEO")
    assert len(out) == 5 + 7 + 1


def test_text_ends_before_a_stop_string_streamed_or_not(minigpt: Command, trained: Path) -> None:
    whole = minigpt("generate", trained, "ROMEO", *FEW)[1]
    stop = whole[20:22]
    expected = whole[: whole.index(stop, 5)]
    assert len(expected) < len(whole) - 1
    change = f'sampling.stop=["never there", "{stop}"]'.replace("\n", "\\n")
    code, out, err = minigpt("generate", trained, "ROMEO", *FEW, "--set", change)
    assert (code, out, err) == (0, expected + "\n", "")
    several = minigpt("generate", trained, "ROMEO", *FEW, "--set", change, "--num-samples", "3")[1]
    assert several.startswith(f"--- sample 1 of 3\n{expected}\n--- sample 2 of 3\n")
    opened = open_run(trained)
    arguments = {"max_new_tokens": 60, "overrides": [change], "seed": 1}
    assert "".join(stream(opened, "ROMEO", **arguments)) == expected[5:]
    assert generate(opened, "ROMEO", num_samples=2, **arguments)[0] == expected[5:]
    assert opened.experiment.sampling.stop == [], "the opened run itself does not change"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "sampling.sampler=mirostat", "--temperature", "1"], 'the sampler mirostat has no parameter "temperature"; it has: eta, tau'),
        (["--set", "sampling.sampler=mirostat", "--top-p", "0.5"], 'the sampler mirostat has no parameter "top_p"'),
        (["--set", "model.d_model=3"], "--set: model.d_model cannot be changed here: the model is trained, and only sampling.*"),
        (["--set", "seed=3"], "--set: seed cannot be changed here: the model is trained"),
        (["--set", "sampling.temperature=1"], "--set: sampling.temperature has moved to sampling.sampler.temperature"),
        (["--set", "sampling.sampler=mirostatt"], 'sampling.sampler: "mirostatt" is not a sampler that is registered; known: filtered'),
        (["--set", "sampling.sampler.tau=1"], 'sampling.sampler.tau: unknown key "tau"; allowed: min_p, temperature'),
        (["--set", "sampling.stop=x"], 'sampling.stop: found "x" (text); allowed: a list in [ ]'),
        (["--set", "sampling=false"], "sampling: found false (true/false); allowed: an object"),
        (["--set", "="], '--set: found "="; allowed: path=value'),
        (["--set", "sampling.sampler=" + 200 * '{"name":"repetition_penalty","sampler":' + '"filtered"' + 200 * "}"], "--set: nested too deeply"),
        (["--set", "sampling.sampler=" + 900 * '{"name":"repetition_penalty","sampler":' + '"filtered"' + 900 * "}"], "--set: nested too deeply"),
        (["--set", "sampling"], '--set: found "sampling"; allowed: path=value'),
        (["--no-plugins", "--plugin", "cycle.py"], "plugins are refused (--no-plugins), but cycle.py is a plugin"),
    ],
)  # fmt: skip
def test_what_cannot_be_changed_is_refused_in_one_line(
    options: list[str], message: str, minigpt: Command, trained: Path
) -> None:
    code, out, err = minigpt("generate", trained, "ROMEO", "--seed", "1", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {message}")


def test_a_sampler_from_a_plugin_is_used_by_name_or_by_the_run(minigpt: Command, corpus: list[str], trained: Path) -> None:
    Path("cycle.py").write_text(CYCLE)
    vocabulary = "".join(sorted(set(Path("corpus.txt").read_text())))
    code, out, _ = minigpt(
        "generate", trained, "ROMEO", *FEW, "--plugin", "cycle.py", "--set", "sampling.sampler=cycle",
        "--set", "sampling.sampler.first=-5",
    )  # fmt: skip
    assert code == 0
    assert out == ("ROMEO" + vocabulary * 4)[: 5 + 60] + "\n"
    settings = ["--plugin", "cycle.py", "--set", "sampling.sampler=cycle", "--no-check", "--name", "cycling"]
    assert minigpt("run", trained / "experiment.json", *settings)[0] == 0
    code, again, _ = minigpt("generate", "runs/cycling/seed-1337", "ROMEO", *FEW, "--set", "sampling.sampler.first=-5")
    assert (code, again) == (0, out)
