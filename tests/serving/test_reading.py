"""Promises about what one request to fill masks may read."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from starlette.testclient import TestClient
from tiny_bundles import TinyBundles

from recurlm.runtime import Filler
from recurlm.serving.app import create_app
from recurlm.serving.middleware import Metrics
from recurlm.serving.models import load_models
from recurlm.serving.settings import Limits, Settings

REQUEST: dict[str, Any] = {"text": "the sea " * 100 + "___ " * 3, "max_mask_tokens": 2}
MOST = 20_000


class App:
    """An application with a cloze model whose calls are counted."""

    def __init__(self, bundles: TinyBundles, **limits: int) -> None:
        settings, metrics = Settings({"cloze": bundles("bilstm")}, limits=Limits(**limits)), Metrics()
        models = load_models(settings, metrics)
        self.app = create_app(settings, models, metrics)
        filler = models["cloze"].filler
        assert filler is not None
        self.filler: Filler = filler
        self.read: list[int] = []
        self.called = threading.Event()
        self.seconds = 0.0  # that each call takes longer
        run = filler.session.run

        def counted(outputs: Any, feeds: Any) -> Any:
            self.read.append(feeds["tokens"].size)
            self.called.set()
            time.sleep(self.seconds)
            return run(outputs, feeds)

        filler.session.run = counted  # type: ignore[method-assign]


@pytest.fixture
def app(bundles: TinyBundles) -> App:
    return App(bundles, fill_reading=MOST)


def test_a_text_that_takes_too_much_reading_is_refused(app: App) -> None:
    with TestClient(app.app) as client:
        response = client.post("/fill", json=REQUEST)
        assert response.status_code == 400
        assert f"no fitting words in {MOST} tokens that were read" in response.json()["error"]["message"]
        assert sum(app.read) <= MOST
        # Each request has its own limit.
        assert client.post("/fill", json={"text": "to be ___"}).status_code == 200


def test_nothing_is_read_for_a_client_that_has_gone(bundles: TinyBundles) -> None:
    app = App(bundles)
    app.seconds = 0.2
    body = json.dumps(REQUEST).encode()
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/fill",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.to_thread(app.called.wait)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app.app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 499
    time.sleep(1)
    assert len(app.read) <= 2
