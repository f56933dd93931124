"""Whatever a request holds, the answer is a 4xx in OpenAI's form with a message that says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from server_process import Server
from tiny_bundles import TinyBundles

pytestmark = pytest.mark.xdist_group("serving")

JSON = {"Content-Type": "application/json"}


def refused(response: Any, status: int, message: str, param: str | None = None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("max_tokens", -1, "max_tokens: Input should be greater than or equal to 0"),
        ("max_tokens", 2001, "max_tokens is 2001: at most 2000"),
        ("max_tokens", "10", "max_tokens: Input should be a valid integer"),
        ("max_tokens", 1.5, "max_tokens: Input should be a valid integer"),
        ("max_tokens", True, "max_tokens: Input should be a valid integer"),
        ("max_tokens", 10**400, "max_tokens is 1"),
        ("temperature", -0.1, "temperature: Input should be greater than or equal to 0"),
        ("temperature", float("nan"), "temperature: Input should be a finite number"),
        ("temperature", float("inf"), "temperature: Input should be a finite number"),
        ("temperature", 10**400, "temperature: "),
        ("temperature", "hot", "temperature: Input should be a valid number"),
        ("top_p", 0, "top_p: Input should be greater than 0"),
        ("top_p", 1.1, "top_p: Input should be less than or equal to 1"),
        ("top_k", -1, "top_k: Input should be greater than or equal to 0"),
        ("min_p", 2, "min_p: Input should be less than or equal to 1"),
        ("repetition_penalty", 0, "repetition_penalty: Input should be greater than or equal to 0.01"),
        ("n", 0, "n: Input should be greater than or equal to 1"),
        ("n", 65, "1 prompts with 65 texts each: at most 64 in all"),
        ("best_of", 3, "best_of: Input should be less than or equal to 1"),
        ("seed", -1, "seed: Input should be greater than or equal to 0"),
        ("seed", 2**63, "seed: Input should be less than or equal to"),
        ("stop", ["a", "b", "c", "d", "e"], "stop: a string of 1 to 1024 characters, or a list of up to 4"),
        ("stop", "", "stop: a string"),
        ("stop", "a" * 1025, "stop: a string of 1 to 1024 characters"),
        ("stop", ["a", "a" * 90_000], "stop: a string of 1 to 1024 characters"),
        ("logprobs", 6, "logprobs: Input should be less than or equal to 5"),
        ("presence_penalty", 0.5, "presence_penalty: Input should be less than or equal to 0"),
        ("logit_bias", {"5": 1}, "logit_bias: Dictionary should have at most 0 items"),
        ("suffix", "end", "suffix: Input should be None"),
        ("stream", "yes", "stream: Input should be a valid boolean"),
        ("stream_options", {"include_usage": True}, "stream_options: only where stream is true"),
        ("prompt", 5, "prompt: a string, a list of strings"),
        ("prompt", [], "prompt: a string, a list of strings"),
        ("prompt", ["a", 1], "prompt: a string, a list of strings"),
        ("prompt", [300], "prompt: there is no token 300: 0 to 299"),
        ("prompt", [[1], [300]], "prompt: there is no token 300: 0 to 299"),
        ("prompt", ["king"] * 65, "65 prompts with 1 texts each: at most 64 in all"),
        ("prompt", "storm " * 1001, "tokens, at most 1000"),
        ("temprature", 1, "unrecognized request argument supplied: temprature"),
        ("messages", [], "unrecognized request argument supplied: messages"),
    ],
)
def test_a_field_that_cannot_be_is_named(server: Server, field: str, value: Any, message: str) -> None:
    body = json.dumps({"model": "lstm", "prompt": "king", field: value})
    param = "prompt" if field == "prompt" else field
    refused(server.post("/v1/completions", content=body, headers=JSON), 400, message, param)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is no JSON object"),
        (b"{", "the body is not JSON: Expecting property name"),
        (b"[1]", "the body is no JSON object"),
        (b'"king"', "the body is no JSON object"),
        (b"null", "the body is no JSON object"),
        (b'{"prompt": "\xff"}', "the body is not JSON in UTF-8"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "the body is not JSON in UTF-8, or has too large a number"),
        (b'{"prompt": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", "brackets"),
        (b'{"model": "lstm", "prompt": "\\ud800"}', "the prompt is not UTF-8 text"),
        (b'{"model": "\\ud800", "prompt": "king"}', "there is no model"),
        (b'{"\\ud800": 1}', "the body is no JSON object"),
    ],
)
def test_a_body_that_cannot_be_is_refused(server: Server, body: bytes, message: str) -> None:
    response = server.post("/v1/completions", content=body, headers=JSON)
    assert 400 <= response.status_code < 500, response.text
    assert message in response.json()["error"]["message"]


def test_other_types_of_content_are_refused(server: Server) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "nonsense", ""):
        response = server.post("/v1/completions", content=b'{"model": "lstm"}', headers={"Content-Type": kind})
        refused(response, 400, "the body is no JSON object sent as Content-Type: application/json")


def test_a_huge_body_is_refused_before_it_is_read(server: Server) -> None:
    refused(server.post("/score", content=b"x" * 200_000, headers=JSON), 413, "the body is too large")
    chunks = (b"x" * 50_000 for _ in range(4))  # sent without a Content-Length
    refused(server.post("/score", content=chunks, headers=JSON), 413, "the body is too large")


def test_models_are_refused_by_name_and_by_what_they_can(server: Server) -> None:
    def complete(model: Any) -> Any:
        return server.post("/v1/completions", {"model": model, "prompt": "king"})

    refused(complete("lsmt"), 404, "there is no model 'lsmt': did you mean 'lstm'?", "model")
    refused(complete(None), 400, "name a model that can generate: one of lstm, int8", "model")
    refused(complete("cloze"), 400, "the model 'cloze' cannot generate: it can fill and score", "model")
    refused(server.post("/fill", {"model": "gru", "text": "___"}), 400, "cannot fill", "model")
    refused(server.get("/v1/models/lsmt"), 404, "there is no model 'lsmt'", "model")
    with pytest.raises(openai.NotFoundError, match="did you mean 'lstm'") as caught:
        server.client().completions.create(model="lsmt", prompt="king")
    assert caught.value.code == "model_not_found"


def test_what_the_vocabulary_lacks_is_named(server: Server) -> None:
    refused(
        server.post("/v1/completions", {"model": "char", "prompt": "king 王"}), 400, "lacks '王', found in the prompt"
    )
    refused(server.post("/v1/completions", {"model": "word", "prompt": "king and"}), 400, "lacks 'and'")


def test_score_and_fill_refuse_in_the_same_form(server: Server) -> None:
    refused(server.post("/score", {"model": "lstm"}), 400, "text: Field required", "text")
    refused(server.post("/score", {"model": "lstm", "text": ""}), 400, "text: ", "text")
    refused(server.post("/score", {"model": "lstm", "text": "storm " * 1001}), 400, "tokens, at most 1000", "text")
    half = b'{"model": "lstm", "text": "\\ud800"}'
    refused(server.post("/score", content=half, headers=JSON), 400, "unable to parse raw data as a unicode", "text")
    refused(server.post("/fill", {"text": "to be"}), 400, "the text has no mask")
    refused(
        server.post("/fill", {"text": "___ " * 90}), 400, "tokens with 90 masks of up to 3 tokens are too much", "text"
    )
    refused(server.post("/fill", {"text": "to ___", "seed": -1}), 400, "seed: ", "seed")


def test_other_addresses_and_methods_are_refused_in_the_same_form(server: Server) -> None:
    refused(server.get("/nowhere"), 404, "Not Found")
    response = server.get("/v1/completions")
    refused(response, 405, "Method Not Allowed")
    assert response.headers["allow"] == "POST"


def test_nothing_but_health_answers_without_the_api_key(bundles: TinyBundles) -> None:
    model = ("--model", f"lstm={bundles('lstm')}")
    with Server(*model, environment={"RECURLM_API_KEY": "secret"}) as server:
        assert server.get("/health").json() == {"status": "ok", "models": ["lstm"]}
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            refused(server.get(path), 401, "no API key")
        refused(server.post("/v1/completions", content=b"{"), 401, "no API key")
        for wrong in ("Bearer wrong", "Bearer", "Basic secret", "Bearer secretsecret", b"Bearer \xff"):
            response = server.get("/v1/models", headers={"Authorization": wrong})
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        with pytest.raises(openai.AuthenticationError, match="incorrect API key"):
            server.client("wrong").models.list()
        assert server.client("secret").completions.create(model="lstm", prompt="king").model == "lstm"


SCHEMATHESIS = [Path(sys.executable).with_name("schemathesis"), "run", "--checks", "all", "--seed", "1", "--no-color"]


def test_schemathesis_finds_nothing(bundles: TinyBundles, tmp_path: Path) -> None:
    """No 5xx, and no answer, status or header that /openapi.json does not tell of, whatever is sent.

    The vocabularies are those that hold every text, as no schema tells what others lack.
    """
    with Server("--model", f"lstm={bundles('lstm')}", "--model", f"cloze={bundles('bilstm')}") as server:
        _schemathesis_finds_nothing(server, tmp_path, "15")


def test_schemathesis_finds_nothing_behind_an_api_key(bundles: TinyBundles, tmp_path: Path) -> None:
    with Server("--bundle", bundles("lstm"), "--api-key", "secret", "--max-tokens", "100") as server:
        _schemathesis_finds_nothing(server, tmp_path, "5", "--header", "Authorization: Bearer secret")


def _schemathesis_finds_nothing(server: Server, folder: Path, examples: str, *options: str) -> None:
    command = [*SCHEMATHESIS, f"{server.url}/openapi.json", "--max-examples", examples, *options]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder, timeout=300)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr
    assert server.get("/health").status_code == 200
