"""Who opens the server in a browser, or takes it for a chat, is told where to go; health answers HEAD."""

from __future__ import annotations

import openai
import pytest
from server_process import Server

pytestmark = pytest.mark.xdist_group("serving")


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_browser_gets_a_hint_and_its_example_works(server: Server, path: str) -> None:
    response = server.get(path)
    assert response.status_code == server.http.head(server.url + path).status_code == 200
    hint = response.json()
    assert all(server.get(address).status_code == 200 for address in hint["get"])
    assert all(server.post(address, {}).status_code == 400 for address in hint["post"])
    body = hint["example"]["body"] | {"model": "lstm"}
    answer = server.post(hint["example"]["url"], body, headers=hint["example"]["headers"])
    assert answer.json()["choices"][0]["text"]


def test_a_chat_client_is_told_of_completions(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="POST /v1/completions, with prompt in place of messages") as caught:
        server.client().chat.completions.create(model="lstm", messages=[{"role": "user", "content": "king"}])
    assert caught.value.code == "unknown_url"
    assert "do not chat" in server.get("/v1/chat/completions").json()["error"]["message"]


def test_health_answers_head(server: Server) -> None:
    head = server.http.head(server.url + "/health")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(server.get("/health").content))
