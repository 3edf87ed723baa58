from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.contracts import Cache, Context, Sampler, State
from minigpt.errors import DivergedError, TokenizerError
from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.model.decoding import prompt_ids, sample_ids, stream_text
from minigpt.model.guessing import Guesses
from minigpt.registry import REGISTRY
from tests.strategies import BLOCK_SIZE, model_with_large_weights


def settings(max_new_tokens: int = 200, **parameters: object) -> tuple[Sampler, int]:
    return REGISTRY.resolve("sampler", {"name": "filtered", "temperature": 1.0, **parameters}).build(), max_new_tokens


def model(**changes: object) -> GPT:
    small = {"d_model": 16, "n_heads": 4, "n_layers": 2, "block_size": BLOCK_SIZE, "dropout": 0.5}
    return model_with_large_weights(ModelSection.model_validate({**small, **changes}))


@pytest.mark.parametrize("position", [entry.name for entry in REGISTRY.entries("position")])
def test_greedy_decoding_equals_the_full_pass(position: str) -> None:
    lm = model(position=position)
    prompt = [3, 1, 4]
    drawn = [int(ids[0]) for ids in sample_ids(lm, prompt, *settings(temperature=0.0, max_new_tokens=BLOCK_SIZE - 3))]
    context = list(prompt)
    with torch.no_grad():
        for token in drawn:
            assert token == int(lm(torch.tensor([context]))[0, -1].argmax())
            context.append(token)


def test_decoding_continues_beyond_the_context_from_its_last_half() -> None:
    lm = model()
    drawn = [int(ids[0]) for ids in sample_ids(lm, [1], *settings(temperature=0.0, max_new_tokens=3 * BLOCK_SIZE))]
    assert len(drawn) == 3 * BLOCK_SIZE
    history = [1, *drawn]
    with torch.no_grad():  # the first token after a full context is drawn from its last half
        context = torch.tensor([history[BLOCK_SIZE // 2 + 1 : BLOCK_SIZE + 1]])
        assert history[BLOCK_SIZE + 1] == int(lm(context)[0, -1].argmax())


WITHOUT_END: list[dict[str, object]] = [
    {"attention": {"name": "mha", "window": 5}, "position": "rope"},
    {"attention": "retention", "position": "rope"},
    {"position": "none", "layers": [{"attention": "gated_delta_net"}, {"attention": {"name": "mha", "window": BLOCK_SIZE}}]},
]


@pytest.mark.parametrize("parts", WITHOUT_END, ids=str)
def test_a_model_whose_state_does_not_grow_continues_beyond_the_context(parts: dict[str, object]) -> None:
    lm = model(**parts)
    assert lm.decodes_without_end
    prompt = [token % 23 for token in range(BLOCK_SIZE + 7)]
    drawn = [int(ids[0]) for ids in sample_ids(lm, prompt, *settings(temperature=0.0, max_new_tokens=2 * BLOCK_SIZE))]
    with torch.no_grad():
        whole = lm(torch.tensor([[*prompt, *drawn]]))[0, len(prompt) - 1 : -1].argmax(-1)
    assert drawn == whole.tolist()


@pytest.mark.parametrize(
    "parts",
    [
        {"position": "rope"},
        {"attention": "retention", "position": "learned"},
        {"attention": {"name": "mha", "window": BLOCK_SIZE + 1}, "position": "rope"},
        {"attention": {"name": "mha", "window": 5}, "position": "sinusoidal"},
        {"attention": "hyena", "position": "none"},
    ],
    ids=str,
)
def test_growing_states_and_untrained_positions_end_with_the_context(parts: dict[str, object]) -> None:
    assert not model(**parts).decodes_without_end


def test_the_size_of_a_state_is_the_size_of_its_tensors() -> None:
    lm = model(attention={"name": "gqa", "n_kv_heads": 2}, position="rope")
    assert lm.state_bytes(10) == lm.new_state(1, 10).nbytes == 2 * 2 * 2 * 4 * 10 * 4  # layers, k and v, heads, head_dim
    assert lm.state_bytes(10, torch.bfloat16) == lm.state_bytes(10) // 2


@pytest.mark.parametrize("block_size", [1, 2, 3, 8])
@pytest.mark.parametrize("prompt_length", [1, 2, 3, 11])
def test_every_token_is_the_most_likely_after_its_context(block_size: int, prompt_length: int) -> None:
    lm = model(block_size=block_size)
    history = list(range(prompt_length))
    drawn = [int(ids[0]) for ids in sample_ids(lm, history, *settings(temperature=0.0, max_new_tokens=20))]
    context = history[-block_size:]
    for token in drawn:
        with torch.no_grad():
            assert token == int(lm(torch.tensor([context]))[0, -1].argmax())
        history.append(token)
        context = [*context, token] if len(context) < block_size else history[-max(1, block_size // 2) :]


def test_the_prompt_is_read_once_for_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, read, hidden = model(), [], GPT.hidden

    def seen(self: GPT, tokens: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, Context]:
        read.append(tuple(tokens.shape))
        return hidden(self, tokens, state)

    monkeypatch.setattr(GPT, "hidden", seen)
    list(sample_ids(lm, [3, 1, 4], *settings(max_new_tokens=3), num_samples=4))
    assert read == [(1, 3), (4, 1), (4, 1)]


def test_only_the_end_of_a_prompt_longer_than_the_context_counts() -> None:
    lm = model()
    long = list(range(20)) * 5
    one = list(sample_ids(lm, long, *settings(max_new_tokens=5)))
    two = list(sample_ids(lm, long[-BLOCK_SIZE:], *settings(max_new_tokens=5)))
    assert np.array_equal(one, two)


def test_equal_seeds_give_equal_text_and_samples_do_not_depend_on_their_number() -> None:
    lm = model()

    def draw(num_samples: int, seed: int) -> np.ndarray:
        return np.stack(list(sample_ids(lm, [1], *settings(max_new_tokens=30), num_samples=num_samples, seed=seed)), 1)

    three = draw(3, 5)
    assert np.array_equal(three, draw(3, 5))
    assert np.array_equal(three[:1], draw(1, 5))
    assert not np.array_equal(three[0], three[1])
    assert not np.array_equal(three, draw(3, 6))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_reported_and_not_sampled(
    monkeypatch: pytest.MonkeyPatch, temperature: float, value: float
) -> None:
    lm, logits = model(), GPT.logits

    def broken(self: GPT, x: torch.Tensor) -> torch.Tensor:
        return logits(self, x).index_fill(-1, torch.tensor([3]), value)

    monkeypatch.setattr(GPT, "logits", broken)
    with pytest.raises(DivergedError, match="training diverged"):
        next(sample_ids(lm, [1], *settings(temperature=temperature)))


def test_decoding_does_not_change_the_model_or_the_random_state() -> None:
    lm = model().train()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    list(sample_ids(lm, [1], *settings(max_new_tokens=3)))
    assert lm.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_draws_follow_the_probabilities() -> None:
    lm = model(block_size=1)
    drawn = np.concatenate(list(sample_ids(lm, [1], *settings(max_new_tokens=1), num_samples=4000)))
    with torch.no_grad():
        expected = lm(torch.tensor([[1]]))[0, -1].softmax(-1).numpy()
    shares = np.bincount(drawn, minlength=len(expected)) / 4000
    assert np.abs(shares - expected).max() < 0.03


@given(st.binary(max_size=60) | st.text(max_size=20).map(str.encode))
def test_streamed_pieces_join_to_the_text(raw: bytes) -> None:
    tokenizer = REGISTRY.resolve("tokenizer", "byte").build()
    pieces = list(stream_text(iter(raw), tokenizer))
    whole = tokenizer.decode(list(raw))
    assert "".join(pieces) == whole
    assert all(pieces) or not whole


def test_half_a_character_is_not_shown() -> None:
    tokenizer = REGISTRY.resolve("tokenizer", "byte").build()
    assert list(stream_text(iter("a€b".encode()), tokenizer)) == ["a", "€", "b"]


def test_prompts_are_encoded_or_refused_and_an_empty_one_starts_a_line() -> None:
    tokenizer = REGISTRY.resolve("tokenizer", "char").build()
    tokenizer.fit("ab\n")
    assert prompt_ids(tokenizer, "ab") == [1, 2]
    assert prompt_ids(tokenizer, "") == [0]
    with pytest.raises(TokenizerError, match=r"character 'x' \(U\+0078, at 2\)"):
        prompt_ids(tokenizer, "abx")
    without = REGISTRY.resolve("tokenizer", "char").build()
    without.fit("xyz")
    assert prompt_ids(without, "") == [0]


# ------------------------------------------------------------------------------------------------------- reading ahead


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "truncatable", False)


@pytest.mark.parametrize(
    ("attention", "temperature"), [("mha", 0.0), *((entry.name, 1.0) for entry in REGISTRY.entries("attention"))]
)
def test_reading_ahead_draws_what_decoding_one_by_one_draws(
    attention: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = model(attention=attention, position="none", embedding={"name": "table", "tied": False})
    with torch.no_grad():
        lm.head.weight.mul_(30)  # a confident model without near-ties
    chosen = settings(temperature=temperature, max_new_tokens=2 * BLOCK_SIZE)
    prompt = [1, 2, 3, 1, 2, 3, 1]
    ahead = [int(ids[0]) for ids in sample_ids(lm, prompt, *chosen, seed=3)]
    one_by_one(monkeypatch)
    assert ahead == [int(ids[0]) for ids in sample_ids(lm, prompt, *chosen, seed=3)]


SAMPLERS = [entry.name for entry in REGISTRY.entries("sampler")]


@given(
    st.sampled_from(SAMPLERS),
    st.sampled_from([1.0, 1.5, 3.0]),
    st.integers(0, 99),
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
)
def test_every_sampler_draws_ahead_what_it_draws_one_by_one(
    name: str, confidence: float, seed: int, prompt: list[int]
) -> None:
    """Tokens, and what the sampler was shown in between: only drawn tokens, in order."""
    lm = model(position="none").double()  # rounding decides nothing
    with torch.no_grad():
        lm.embedding.weight.mul_(confidence)  # at 1 most guesses are wrong, at 3 text repeats itself and most are right

    def draw(read_ahead: bool) -> tuple[list[int], list[object], int]:
        sampler, calls, passes = REGISTRY.resolve("sampler", name).build(), [], 0
        observe, hidden = sampler.observe, lm.hidden

        def seen(token: int, probabilities: torch.Tensor, memory: object) -> None:
            observe(token, probabilities, memory)
            calls.append((token, probabilities.argmax()))

        def counted(*arguments: object) -> object:
            nonlocal passes
            passes += 1
            return hidden(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampler, "observe", seen)
            patch.setattr(lm, "hidden", counted)
            drawn = sample_ids(lm, prompt, sampler, 2 * BLOCK_SIZE, seed=seed, read_ahead=read_ahead)
            return [int(ids[0]) for ids in drawn], calls, passes

    ahead, one_by_one = draw(True), draw(False)
    assert ahead[:2] == one_by_one[:2]
    assert one_by_one[2] == len(one_by_one[0]) == len(one_by_one[1])
    assert ahead[2] <= one_by_one[2]


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_continuation_has_a_separate_memory(name: str) -> None:
    lm = model()
    draw = functools.partial(sample_ids, lm, [1, 2], REGISTRY.resolve("sampler", name).build(), 30, seed=5)
    together = np.stack(list(draw(num_samples=3)), 1)
    assert np.array_equal(together[:1], np.stack(list(draw(num_samples=1, read_ahead=False)), 1))
    assert np.array_equal(together[:2], np.stack(list(draw(num_samples=2)), 1))


def test_the_sampler_receives_the_whole_text_of_its_row() -> None:
    """Also after the context moved on, and of a prompt that is longer than the context."""
    lm, received = model(), []

    class Recorder(type(REGISTRY.resolve("sampler", "filtered").build())):  # type: ignore[misc]
        def probabilities(self, logits: torch.Tensor, ids: list[int], memory: object) -> torch.Tensor:
            received.append(list(ids))
            return super().probabilities(logits, ids, memory)

    prompt = [token % 23 for token in range(BLOCK_SIZE + 5)]
    drawn = [int(ids[0]) for ids in sample_ids(lm, prompt, Recorder(), 2 * BLOCK_SIZE, seed=1)]
    assert received == [[*prompt, *drawn[:length]] for length in range(len(drawn))]


def test_reading_ahead_takes_fewer_passes_if_text_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model()
    passes: list[int] = []
    plain = lm.hidden
    monkeypatch.setattr(lm, "hidden", lambda tokens, state=None: passes.append(tokens.shape[1]) or plain(tokens, state))
    greedy = settings(temperature=0.0, max_new_tokens=3 * BLOCK_SIZE)
    list(sample_ids(lm, [1], *greedy))
    ahead = len(passes)
    passes.clear()
    one_by_one(monkeypatch)
    list(sample_ids(lm, [1], *greedy))
    assert len(passes) == 3 * BLOCK_SIZE
    assert ahead < 0.75 * len(passes)


def test_guesses_continue_repetitions_and_adapt_their_number() -> None:
    guesses = Guesses([5, 1, 2, 1, 2, 1])
    assert guesses.next(10) == [2, 1]
    guesses.learn([], 2, wrong=0)
    guesses.learn([], 4, wrong=0)
    assert guesses.next(10) == [2, 1, 2, 1, 2, 1, 2, 1]
    assert guesses.next(3) == [2, 1, 2]
    guesses.learn([], 8, wrong=8)
    assert len(guesses.next(10)) == 4
    guesses.append(7)
    assert guesses.next(10) == []


def test_only_complete_caches_can_be_truncated() -> None:
    assert model(attention="gqa", position="rope").new_state(1, 8).truncatable
    for attention in ({"name": "mha", "window": 5}, "retention", "short_conv", "hyena"):
        state = model(attention=attention, position="none").new_state(1, 8)
        assert not state.truncatable
        with pytest.raises(ValueError, match="only complete caches can undo tokens"):
            state.truncate(1)
        assert state.length == 0
