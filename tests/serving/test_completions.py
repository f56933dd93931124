"""Promises of /v1/completions, as the openai client sees them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from server_process import Server

from recurlm.runtime import Generator

pytestmark = pytest.mark.xdist_group("serving")

PROMPTS = ["", "the king", "storm", "to be or not to be, that is the night sea crown ghost " * 4]
CAUSAL = ["lstm", "int8", "int4", "gru", "char", "word"]


def streamed(server: Server, **request: Any) -> str:
    pieces = server.client().completions.create(stream=True, **request)
    return "".join(piece.choices[0].text for piece in pieces)


@pytest.mark.parametrize("model", CAUSAL)
@pytest.mark.parametrize("seed", [0, 7])
def test_a_seed_gives_the_text_that_generate_gives_streamed_and_not(
    server: Server, generators: dict[str, Generator], model: str, seed: int
) -> None:
    request: dict[str, Any] = {
        "model": model,
        "prompt": "the king",
        "max_tokens": 150,
        "temperature": 0.9,
        "seed": seed,
    }
    request |= {"top_p": 0.9, "extra_body": {"top_k": 30}}
    expected = generators[model].generate("the king", 150, 0.9, 30, 0.9, seed)
    assert expected
    assert server.client().completions.create(**request).choices[0].text == expected
    assert streamed(server, **request) == expected


@pytest.mark.parametrize("model", CAUSAL)
def test_so_it_does_among_many_requests_of_other_settings(
    server: Server, generators: dict[str, Generator], model: str
) -> None:
    before = server.metric(f'recurlm_call_texts_sum{{model="{model}"}}')
    calls = server.metric(f'recurlm_call_texts_count{{model="{model}"}}')
    settings = [
        {"temperature": 0.0},
        {"temperature": 1.3},
        {"temperature": 0.8, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.5, "min_p": 0.01},
        {"temperature": 0.9, "repetition_penalty": 1.5},
    ]
    neutral = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    words = [prompt.strip() if model == "word" else prompt for prompt in PROMPTS]
    words = [prompt.replace(",", "") for prompt in words]
    asked = [(words[seed % 4], 20 + 37 * seed % 300, {**neutral, **settings[seed % 5]}, seed) for seed in range(60)]

    def ask(prompt: str, length: int, setting: dict[str, Any], seed: int) -> str:
        body = {"model": model, "prompt": prompt, "max_tokens": length, "seed": seed, **setting}
        answer = server.post("/v1/completions", body)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["text"]
        return text

    with ThreadPoolExecutor(30) as pool:
        texts = list(pool.map(lambda arguments: ask(*arguments), asked))
    expected = [generators[model].generate(prompt, length, seed=seed, **s) for prompt, length, s, seed in asked]
    assert texts == expected
    together = server.metric(f'recurlm_call_texts_sum{{model="{model}"}}') - before
    assert together / (server.metric(f'recurlm_call_texts_count{{model="{model}"}}') - calls) > 2


def test_several_prompts_and_several_texts_each_draw_with_seeds_of_their_own(
    server: Server, generators: dict[str, Generator]
) -> None:
    request: dict[str, Any] = {"model": "lstm", "prompt": ["king", "sea"], "n": 2, "max_tokens": 30, "seed": 4}
    answer = server.client().completions.create(**request)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    expected = [
        generators["lstm"].generate(prompt, 30, 1.0, 0, 1.0, 4 + index)
        for index, prompt in enumerate(["king", "king", "sea", "sea"])
    ]
    assert [choice.text for choice in answer.choices] == expected
    texts = [""] * 4
    for piece in server.client().completions.create(stream=True, **request):
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == expected


def test_tokens_make_a_prompt(server: Server, generators: dict[str, Generator]) -> None:
    ids = generators["lstm"].bundle.vocabulary.ids("the king", "the prompt")
    client = server.client()
    answers = [
        client.completions.create(model="lstm", prompt=prompt, seed=3, max_tokens=20, echo=True).choices[0].text
        for prompt in ("the king", ids, [ids])
    ]
    assert answers[0].startswith("the king")
    assert answers[1:] == answers[:1] * 2


def test_usage_counts_tokens(server: Server, generators: dict[str, Generator]) -> None:
    prompt_tokens = len(generators["lstm"].bundle.vocabulary.ids("the king", "the prompt"))
    request: dict[str, Any] = {"model": "lstm", "prompt": "the king", "n": 3, "max_tokens": 12, "seed": 1}
    usage = server.client().completions.create(**request).usage
    assert usage is not None
    assert usage.prompt_tokens == prompt_tokens
    assert usage.completion_tokens <= 36
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    options: Any = {"include_usage": True}
    *_, last = server.client().completions.create(stream=True, stream_options=options, **request)
    assert (last.choices, last.usage) == ([], usage)


@pytest.mark.parametrize("model", CAUSAL)
def test_a_text_ends_before_a_stop_sequence(server: Server, generators: dict[str, Generator], model: str) -> None:
    whole = generators[model].generate("the king", 120, 1.0, 0, 1.0, 5)
    stop = whole[len(whole) // 2 :][:3]
    request: dict[str, Any] = {"model": model, "prompt": "the king", "max_tokens": 120, "seed": 5, "stop": [stop, "☃☃"]}
    choice = server.client().completions.create(**request).choices[0]
    assert (choice.text, choice.finish_reason) == (whole[: whole.index(stop)], "stop")
    assert streamed(server, **request) == choice.text
    assert generators[model].generate("the king", 120, 1.0, 0, 1.0, 5, stop=request["stop"]) == choice.text


def test_the_finish_reason_tells_length_from_an_end(server: Server, generators: dict[str, Generator]) -> None:
    """A random model ends a text after some hundreds of tokens, if it is let."""
    reasons = {}
    for seed in range(8):
        answer = server.client().completions.create(model="gru", prompt="king", max_tokens=700, seed=seed)
        usage, reason = answer.usage, answer.choices[0].finish_reason
        assert usage is not None
        assert (usage.completion_tokens == 700) == (reason == "length")
        assert answer.choices[0].text == generators["gru"].generate("king", 700, 1.0, 0, 1.0, seed)
        reasons[reason] = True
    assert reasons.keys() <= {"stop", "length"}


def test_no_tokens_may_be_asked_for(server: Server) -> None:
    answer = server.client().completions.create(model="lstm", prompt="the king", max_tokens=0, echo=True)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("the king", "length")


@pytest.mark.parametrize("model", ["lstm", "char", "word"])
def test_log_probabilities_are_those_of_score(server: Server, model: str) -> None:
    request: dict[str, Any] = {"model": model, "prompt": "the king", "max_tokens": 20, "seed": 2, "logprobs": 3}
    choice = server.client().completions.create(echo=True, **request).choices[0]
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.text_offset is not None
    scored = server.post("/score", {"model": model, "text": choice.text, "tokens": True}).json()["token_log_probs"]
    # A drawn text may be other tokens than the tokenizer makes of it; those of the prompt are the same.
    prompt = server.post("/score", {"model": model, "text": "the king", "tokens": True}).json()["token_log_probs"]
    if [token["token"] for token in scored] == logprobs.tokens:
        assert logprobs.token_logprobs == pytest.approx([token["log_prob"] for token in scored], abs=1e-4)
    assert logprobs.tokens[: len(prompt)] == [token["token"] for token in prompt]
    assert logprobs.token_logprobs[: len(prompt)] == pytest.approx([token["log_prob"] for token in prompt], abs=1e-4)
    for log_prob, token, top in zip(logprobs.token_logprobs, logprobs.tokens, logprobs.top_logprobs, strict=True):
        assert len(top) == 3
        assert max(top.values()) >= log_prob or top.get(token) == log_prob
    assert logprobs.text_offset == sorted(logprobs.text_offset)
    streamed_tokens: list[str] = []
    for piece in server.client().completions.create(stream=True, echo=True, **request):
        of_piece = piece.choices[0].logprobs
        streamed_tokens += (of_piece and of_piece.tokens) or []
    assert streamed_tokens == logprobs.tokens


def test_models_are_listed(server: Server) -> None:
    models = {model.id: model for model in server.client().models.list()}
    assert models.keys() == {"lstm", "int8", "int4", "gru", "char", "word", "cloze"}
    assert server.client().models.retrieve("int8") == models["int8"]
    assert models["int8"].model_extra == {"variant": "lstm", "precision": "int8", "does": ["generate", "score"]}


def test_who_hangs_up_is_drawn_for_no_longer(server: Server) -> None:
    running, made = 'recurlm_running_texts{model="lstm"}', 'recurlm_generated_tokens_total{model="lstm"}'
    body = {"model": "lstm", "prompt": "king", "n": 64, "max_tokens": 2000}
    with pytest.raises(Exception, match="time"):
        server.client(timeout=0.02).completions.create(**body)  # type: ignore[call-overload]
    stream = server.client().completions.create(stream=True, **body)  # type: ignore[call-overload]
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 60
    while server.metric(running) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.metric(running) == 0
    before = server.metric(made)
    time.sleep(0.2)
    assert server.metric(made) == before
