"""Promises at the limits that the server itself states: nothing that it accepts holds up the others."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from pydantic import ValidationError
from server_process import Server
from starlette.testclient import TestClient
from tiny_bundles import TinyBundles

from recurlm.runtime import Bundle
from recurlm.runtime.session import GraphError
from recurlm.serving.app import create_app
from recurlm.serving.completions import Logprobs
from recurlm.serving.middleware import Metrics
from recurlm.serving.models import load_models
from recurlm.serving.schema import CompletionRequest
from recurlm.serving.settings import Settings

pytestmark = pytest.mark.xdist_group("serving")

LARGEST: dict[str, Any] = {"model": "lstm", "prompt": "king", "max_tokens": 4096, "n": 64, "temperature": 0}
UNKNOWN = {f"field{number}": 1 for number in range(60_000)}
MULTIPLE = 20  # docs/serving.md: of its own time, for a small request


@pytest.fixture(scope="module")
def usual(bundles: TinyBundles) -> Iterator[Server]:
    """A server with the usual limits."""
    with Server("--model", f"lstm={bundles('lstm')}", "--model", f"cloze={bundles('bilstm')}") as server:
        yield server


@contextmanager
def running(
    server: Server, *requests: tuple[str, dict[str, Any]], again: bool = False
) -> Iterator[list[httpx.Response]]:
    """Requests that are being answered; the responses so far. At the end the clients hang up.

    With `again` each client asks anew when it was answered, so that the load lasts however fast the machine is.
    """
    responses: list[httpx.Response] = []
    with httpx.Client(verify=False, timeout=300) as client:

        def ask(path: str, body: dict[str, Any]) -> None:
            with contextlib.suppress(httpx.HTTPError, RuntimeError):  # hung up
                responses.append(client.post(server.url + path, json=body))
                while again:
                    time.sleep(0.05)
                    responses.append(client.post(server.url + path, json=body))

        threads = [threading.Thread(target=ask, args=request, daemon=True) for request in requests]
        for thread in threads:
            thread.start()
        yield responses


def assert_health_is_answered_meanwhile(server: Server, until: Callable[[], bool]) -> None:
    """Ask again and again: what holds it up takes most of the time that is waited for."""
    begin, slowest = time.perf_counter(), 0.0
    while not until():
        start = time.perf_counter()
        assert server.get("/health").status_code == 200
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < max(2, (time.perf_counter() - begin) / 2)


def wait_for(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_stop_sequences_at_their_limits_hold_nothing_up(usual: Server) -> None:
    stop = ["a" * 1023 + last for last in "bcde"]
    request = {**LARGEST, "max_tokens": 200, "prompt": "a", "stop": stop}
    with running(usual, ("/v1/completions", request)) as responses:
        assert_health_is_answered_meanwhile(usual, lambda: bool(responses))
    assert responses[0].status_code == 200
    beyond = usual.post("/v1/completions", {**request, "stop": "a" * 1_000_000})
    assert beyond.status_code == 400
    assert "1 to 1024 characters" in beyond.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/completions", {"prompt": [[]] * 250_000}, "prompt: a string, a list of strings"),
        ("/v1/completions", {"prompt": [*[1] * 300_000, "a"]}, "prompt: a string, a list of strings"),
        ("/v1/completions", {"prompt": "a" * 1_000_000}, "tokens or more, at most 8192"),
        ("/v1/completions", UNKNOWN, "unrecognized request argument"),
        ("/score", {"text": "storm " * 170_000}, "tokens or more, at most 8192"),
    ],
)
def test_a_body_of_the_largest_size_holds_nothing_up(usual: Server, path: str, body: Any, message: str) -> None:
    with running(usual, (path, {"model": "lstm", **body})) as responses:
        assert_health_is_answered_meanwhile(usual, lambda: bool(responses))
    assert responses[0].status_code == 400
    assert message in responses[0].json()["error"]["message"]


@pytest.mark.parametrize("body", [UNKNOWN, {"stream_options": UNKNOWN}, {"logit_bias": dict.fromkeys(UNKNOWN, "")}])
def test_a_body_has_few_errors_however_many_fields_it_has(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate(body)
    assert caught.value.error_count() == 1


def test_log_probabilities_of_the_longest_prompt_hold_nothing_up(usual: Server, bundles: TinyBundles) -> None:
    prompt = [7, 200, 13, 255] * 2048  # the tokenizer would encode its text otherwise
    request = {"model": "lstm", "prompt": prompt, "max_tokens": 2, "n": 2, "seed": 1, "echo": True, "logprobs": 5}
    with running(usual, ("/v1/completions", request)) as responses:
        assert_health_is_answered_meanwhile(usual, lambda: bool(responses))
    assert responses[0].status_code == 200, responses[0].text
    for choice in responses[0].json()["choices"]:
        logprobs = choice["logprobs"]
        assert len(logprobs["tokens"]) == len(logprobs["top_logprobs"]) == len(logprobs["text_offset"])
        assert len(logprobs["tokens"]) >= len(prompt)
        assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
        assert logprobs["text_offset"][-1] <= len(choice["text"])


def test_a_small_request_is_answered_within_a_multiple_of_its_own_time(usual: Server) -> None:
    small: dict[str, tuple[str, dict[str, Any]]] = {
        "completion": ("/v1/completions", {"model": "lstm", "prompt": "king", "max_tokens": 5, "temperature": 0}),
        "logprobs": ("/v1/completions", {"model": "lstm", "prompt": "king", "max_tokens": 5, "logprobs": 2, "seed": 1}),
        "score": ("/score", {"model": "lstm", "text": "the king"}),
        "fill": ("/fill", {"text": "to be or ___"}),
    }

    def seconds(path: str, body: dict[str, Any]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            answer = usual.post(path, body)
            times.append(time.perf_counter() - start)
            assert answer.status_code == 200, answer.text
        return statistics.median(times)

    alone = {name: seconds(*request) for name, request in small.items()}
    with running(
        usual,
        *[("/v1/completions", LARGEST)] * 8,  # more than the queue holds
        (
            "/v1/completions",
            {**LARGEST, "prompt": [7, 200] * 4096, "max_tokens": 1, "n": 1, "echo": True, "logprobs": 5},
        ),
        *[("/score", {"model": "lstm", "text": "storm " * 3500})] * 20,
        *[("/fill", {"text": "to be or ___ to " * 14})] * 5,
        again=True,
    ):
        wait_for(lambda: usual.metric('recurlm_running_texts{model="lstm"}') >= 64)
        # The least of three: what else this machine does may slow one down.
        loaded = {name: min(seconds(*request) for _ in range(3)) for name, request in small.items()}
        assert usual.metric('recurlm_waiting_texts{model="lstm"}') > 0  # as much as before
        # The queue is full for large requests, and not for small ones.
        assert any(usual.post("/v1/completions", LARGEST).status_code == 429 for _ in range(20))
    for name in small:
        assert loaded[name] < MULTIPLE * alone[name], (name, loaded, alone)


def test_what_becomes_of_the_files_changes_no_answer(bundles: TinyBundles, tmp_path: Path) -> None:
    """As where a `dvc repro` beside the server writes other bundles; step.onnx is first used after that."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundles("lstm"), folder)
    with Server("--bundle", folder) as server:
        request: dict[str, Any] = {"prompt": "the king", "max_tokens": 20, "seed": 1}
        before = server.post("/v1/completions", request).json()["choices"]
        score = server.post("/score", {"text": "the king"}).json()
        shutil.rmtree(folder)
        shutil.copytree(bundles("gru"), folder)
        answers = [server.post("/v1/completions", {**request, "echo": True, "logprobs": 0}).json()]
        shutil.rmtree(folder)
        answers.append(server.post("/v1/completions", {**request, "echo": True, "logprobs": 0}).json())
        assert server.post("/v1/completions", request).json()["choices"] == before
        assert server.post("/score", {"text": "the king"}).json() == score
    assert answers[0]["choices"] == answers[1]["choices"]
    bundle = Bundle.open(bundles("lstm"))
    ids = bundle.vocabulary.ids("the king", "the prompt")
    logprobs = Logprobs(bundle.session("step.onnx", {"token"}, None), 0)
    expected = [token.log_prob for token in logprobs.read([bundle.vocabulary.bos, *ids])]
    assert answers[0]["choices"][0]["logprobs"]["token_logprobs"][: len(ids)] == pytest.approx(expected)


def test_a_call_that_fails_is_an_error_in_json_and_ends_a_stream_with_an_event(bundles: TinyBundles) -> None:
    settings, metrics = Settings({"lstm": bundles("lstm")}), Metrics()
    models = load_models(settings, metrics)
    generator = models["lstm"].generator
    assert generator is not None
    run = generator.session.run
    with TestClient(create_app(settings, models, metrics), raise_server_exceptions=False) as client:
        for failure, message in [
            (GraphError("x: no result after 60 s"), "x: no result after 60 s"),
            (ValueError("secret"), "a bug in recurlm (ValueError)"),
        ]:

            def fail(*_: Any, failure: Exception = failure) -> Any:
                raise failure

            generator.session.run = fail  # type: ignore[method-assign]
            response = client.post("/v1/completions", json={"prompt": "king"})
            assert response.status_code == 500
            assert response.json()["error"] == {"message": message, "type": "server_error", "param": None, "code": None}
            streamed = client.post("/v1/completions", json={"prompt": "king", "stream": True})
            assert streamed.text.startswith('data: {"error": {"message": "' + message)
            assert "[DONE]" not in streamed.text
            # The model goes on for those who come after.
            generator.session.run = run  # type: ignore[method-assign]
            assert client.post("/v1/completions", json={"prompt": "king"}).json()["choices"][0]["text"]
