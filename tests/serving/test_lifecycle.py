"""Promises of starting, stopping and being too busy."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from server_process import Server
from tiny_bundles import TinyBundles
from tiny_project import CHECKOUT

from recurlm.runtime import Filler, Generator, Scorer

pytestmark = pytest.mark.xdist_group("serving")

Refuses = Callable[[subprocess.CompletedProcess[str], str], None]

LONG: dict[str, Any] = {
    "model": "lstm",
    "prompt": "king",
    "max_tokens": 4000,
    "n": 16,
    "temperature": 0,
}  # it goes on and on


@pytest.fixture
def model(bundles: TinyBundles) -> tuple[str, str]:
    return "--model", f"lstm={bundles('lstm')}"


def taking_new_ones(server: Server) -> bool:
    try:
        httpx.get(f"{server.url}/health", timeout=60)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_finish_takes_nothing_new_and_exits_0(
    model: tuple[str, str], bundles: TinyBundles, number: int
) -> None:
    with Server(*model) as server:
        stream = server.client().completions.create(stream=True, **LONG)
        first = next(stream)
        server.process.send_signal(number)
        while taking_new_ones(server):
            pass
        texts = [""] * 16
        finished = 0
        for piece in [first, *stream]:
            texts[piece.choices[0].index] += piece.choices[0].text
            finished += piece.choices[0].finish_reason is not None
        assert server.process.wait(timeout=60) == 0
        assert finished == 16
        assert server.rest_of_stderr() == ""
    assert texts[0] == Generator.from_bundle(bundles("lstm")).generate("king", 4000, 0.0, 0)


def test_what_does_not_finish_in_time_is_cut_off(model: tuple[str, str]) -> None:
    with Server(*model, "--grace", "0", "--max-tokens", "1000000") as server:
        stream = server.client().completions.create(stream=True, **{**LONG, "max_tokens": 1_000_000})
        next(stream)
        assert server.stop() == 0
        with pytest.raises((openai.APIError, httpx.TransportError)):
            list(stream)


def test_killed_under_load_and_started_again_it_answers(model: tuple[str, str]) -> None:
    with Server(*model) as server:
        port = server.port

        def ask() -> None:
            with contextlib.suppress(openai.APIError):
                server.client().completions.create(**LONG)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        stream = server.client().completions.create(stream=True, **LONG)
        next(stream)
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        for thread in threads:
            thread.join()
    with Server(*model, port=port) as again:
        assert again.port == port
        assert again.client().completions.create(**{**LONG, "max_tokens": 20}).choices[0].text


def test_a_full_queue_answers_429(model: tuple[str, str]) -> None:
    with Server(*model, "--max-batch", "16", "--max-queue", "20", "--max-tokens", "1000000") as server:
        endless = {**LONG, "max_tokens": 1_000_000}
        streams = [server.client().completions.create(stream=True, **endless) for _ in range(2)]
        next(streams[0])
        response = server.post("/v1/completions", LONG)
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
        with pytest.raises(openai.RateLimitError, match="texts wait already, and at most 20 may: try again later"):
            server.client().completions.create(**LONG)
        for stream in streams:
            stream.close()
        assert server.client().completions.create(**{**LONG, "max_tokens": 5}).choices


def test_score_and_fill_give_what_the_runtime_gives(server: Server, bundles: TinyBundles) -> None:
    score = Scorer.from_bundle(bundles("lstm")).score("the king, the sea")
    answer = server.post("/score", {"model": "lstm", "text": "the king, the sea", "tokens": True}).json()
    tokens = answer.pop("token_log_probs")
    assert answer == {"model": "lstm", **score.metrics()}
    assert sum(-token["log_prob"] for token in tokens) == pytest.approx(score.nats)
    assert "".join(token["token"] for token in tokens) == "the king, the sea"
    pseudo = server.post("/score", {"model": "cloze", "text": "the king"}).json()
    assert (pseudo["protocol"], pseudo["nats"]) == (
        "cloze",
        Scorer.from_bundle(bundles("bilstm")).score("the king").nats,
    )
    request = {"text": "to be or ___ to ___", "temperature": 1.0, "seed": 3}
    filled = Filler.from_bundle(bundles("bilstm")).fill("to be or ___ to ___", 1.0, seed=3)
    assert server.post("/fill", request).json() == {"model": "cloze", "text": filled}


def test_metrics_count_requests_by_route_and_status(server: Server) -> None:
    name = 'recurlm_requests_total{method="GET",route="none",status="404"}'
    server.get("/nowhere")
    before = server.metric(name)
    server.get("/elsewhere")
    assert server.metric(name) == before + 1
    tokens = 'recurlm_generated_tokens_total{model="gru"}'
    before = server.metric(tokens)
    answer = server.client().completions.create(model="gru", prompt="king", max_tokens=33, seed=1)
    assert answer.usage is not None
    assert server.metric(tokens) == before + answer.usage.completion_tokens


def test_a_bundle_is_named_by_what_it_is(bundles: TinyBundles) -> None:
    with Server("--bundle", bundles("bilstm", precision="int8")) as server:
        assert [model.id for model in server.client().models.list()] == ["bilstm-int8"]
        assert server.post("/fill", {"text": "to ___"}).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "nowhere"], "nowhere: no bundle here"),
        (["--model", "lstm"], "--model lstm: write it as NAME=PATH"),
        (["--model", "a=x", "--model", "a=y"], "--model a=y: there is another model 'a'"),
        (["--model", "a/b=x"], "a model cannot be named 'a/b'"),
        (["--all"], "no bundles in data/onnx"),
        (["--model", "a=x", "--port", "70000"], "port is 70000"),
        (["--model", "a=x", "--max-queue", "0"], "queue is 0: 1 or more"),
        (["--model", "a=x", "--api-key", ""], "the API key is empty"),
        (["--model", "a=x", "--host", "256.0.0.1"], "cannot listen at 256.0.0.1"),
        (["--model", "a=x", "--host", "a..b"], "cannot listen at a..b, port 8000: "),
        (["--model", "a=x", "--host", "a" * 64], "cannot listen at aaa"),
        (["--model", "a=x", "--threads", "2000"], "threads is 2000: 1 to "),
    ],
)
def test_a_server_that_cannot_be_is_refused_in_one_line(
    refuses: Refuses, tmp_path: Path, arguments: list[str], message: str
) -> None:
    command = [sys.executable, "-m", "recurlm.cli", "serve", *arguments]
    refuses(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True), message)


def test_a_port_in_use_is_refused_in_one_line(refuses: Refuses, model: tuple[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "recurlm.cli", "serve", *model, "--port", port]
        refuses(subprocess.run(command, capture_output=True, text=True), f"port {port}: Address already in use")


def test_serving_loads_nothing_of_the_pipeline(model: tuple[str, str]) -> None:
    names = (
        "import sys, recurlm.serving.server; print(*({'torch', 'mlflow', 'onnx', 'dvc', 'yaml'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", names], capture_output=True, text=True).stdout == "\n"


def test_without_its_packages_it_says_what_to_install(refuses: Refuses, model: tuple[str, str]) -> None:
    code = "import sys; sys.modules['fastapi'] = None; sys.argv[0] = 'recurlm'; from recurlm import cli; cli.main()"
    command = [sys.executable, "-c", code, "serve", *model]
    extra = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["serve"]
    packages = " ".join(requirement.partition(">=")[0] for requirement in extra)
    refuses(subprocess.run(command, capture_output=True, text=True), f"pip install {packages}")
