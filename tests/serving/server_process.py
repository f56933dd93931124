"""`recurlm serve` in a process of its own, on a port that is free."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import httpx2 as httpx

if TYPE_CHECKING:
    from openai import OpenAI

ANNOUNCED = re.compile(r"recurlm: http://127\.0\.0\.1:(\d+) serves ")


class Server:
    """Starts on entering, and is killed on leaving if it still runs."""

    def __init__(
        self,
        *arguments: str | Path,
        port: int = 0,
        environment: dict[str, str] | None = None,
        open_files: int | None = None,
    ) -> None:
        """`open_files`: the most that the process may have, as by `ulimit -n`."""
        self.command = [sys.executable, "-m", "recurlm.cli", "serve", *map(str, arguments), "--port", str(port)]
        if open_files is not None:
            self.command = ["sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *self.command]
        self.environment = os.environ | (environment or {})
        # Without a certificate store, which takes longer to load than a tiny model draws.
        self.http = httpx.Client(verify=False, timeout=60)

    def __enter__(self) -> Server:
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True, env=self.environment)
        lines = self.first_lines = list[str]()
        for line in self._stderr():
            lines.append(line)
            if match := ANNOUNCED.match(line):
                self.port = int(match[1])
                return self
        raise AssertionError(f"no server: {lines}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        self._stderr().close()
        self.http.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, api_key: str = "none", **options: Any) -> OpenAI:
        from openai import OpenAI  # which takes a second, and test_scheduler.py needs none

        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(self.url + path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        given = {"json": body} if body is not None else {}
        return self.http.post(self.url + path, **given, **options)

    def metric(self, name: str) -> float:
        """A value of /metrics, by its name with labels."""
        lines = self.get("/metrics").text.splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(name + " ")))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def rest_of_stderr(self) -> str:
        """The rest of stderr, once it has ended."""
        return self._stderr().read()

    def _stderr(self) -> IO[str]:
        assert self.process.stderr is not None
        return self.process.stderr
