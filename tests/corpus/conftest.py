"""A Hub on 127.0.0.1, and the stage as a person runs it."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import re
import resource
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from configs import CHECKOUT, write_params

Fetch = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """Run the stage in a folder of its own, where params.yaml holds the given `fetch` section."""

    def run(
        section: dict[str, Any], environment: dict[str, str] | None = None, largest_file: int = resource.RLIM_INFINITY
    ) -> subprocess.CompletedProcess[str]:
        write_params(tmp_path, {"fetch": section})
        own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "DATASETS_"))}
        own |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(CHECKOUT / "src")} | (environment or {})
        command = [sys.executable, str(CHECKOUT / "pipelines" / "fetch.py")]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=own,
            capture_output=True,
            text=True,
            timeout=100,
            # The kernel refuses to write on at that size, as it does on a full disk.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY)),
        )

    return run


def parquet(texts: list[str], column: str = "text") -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({column: texts}), file)
    return file.getvalue()


class Hub:
    """Answers as the Hub does, for a few datasets that have one commit each."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}  # (id, commit) → path → bytes
        self.requests: list[str] = []
        self.broken: set[str] = set()  # paths whose bytes stop half-way
        self.deaf = False  # hangs up without an answer
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.environment = {"HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_address[1]}"}
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def add(self, name: str, commit: str, files: dict[str, bytes]) -> None:
        self.files[name, commit] = files

    def shut_down(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for one request."""
        parts = urllib.parse.unquote(urllib.parse.urlsplit(path).path).strip("/").split("/")
        api = parts[0] == "api"
        _, owner, dataset, verb, commit, *rest = parts[api:]
        name, target = f"{owner}/{dataset}", "/".join(rest)
        if not any(name == known for known, _ in self.files):
            return 401, {"X-Error-Code": "RepoNotFound"}, b""  # so as not to tell which private ones there are
        files = self.files.get((name, commit))
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if verb == "resolve":
            return _file(files, target, commit)
        if verb == "revision":
            siblings = [{"rfilename": file} for file in files]
            card = yaml.safe_load(files["README.md"].decode().strip("-\n")) or {}
            return _json({"id": name, "sha": commit, "siblings": siblings, "tags": [], "cardData": card})
        if verb == "tree":
            return _tree(files, target)
        assert verb == "paths-info", path
        wanted = urllib.parse.parse_qs(body.decode())["paths"]
        return _json([_entry(file, files[file]) for file in wanted if file in files])


def _file(files: dict[str, bytes], path: str, commit: str) -> tuple[int, dict[str, str], bytes]:
    if path not in files:
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
    data = files[path]
    return 200, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}, data


def _tree(files: dict[str, bytes], folder: str) -> tuple[int, dict[str, str], bytes]:
    """One folder's files and folders."""
    prefix = f"{folder}/" if folder else ""
    inside = {file: data for file, data in files.items() if file.startswith(prefix)}
    if not inside:
        return 404, {"X-Error-Code": "EntryNotFound"}, b""
    folders = sorted({file[len(prefix) :].split("/")[0] for file in inside if "/" in file[len(prefix) :]})
    listed = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": prefix + name} for name in folders]
    return _json(listed + [_entry(file, data) for file, data in inside.items() if "/" not in file[len(prefix) :]])


def _entry(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": path}


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _handler(hub: Hub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            if hub.deaf:
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, data = hub.answer(self.path, body)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            if wanted and status == 200:  # as a stream asks
                status, data = 206, data[int(wanted[1]) : int(wanted[2]) + 1]
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                if any(self.path.endswith(path) for path in hub.broken):
                    data = data[: len(data) // 2]
                    self.close_connection = True
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = _respond  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.shut_down()
