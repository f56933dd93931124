"""Node, the built page with tiny bundles, its server, and a real headless Chromium."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from configs import LESSON
from node_process import Node
from tiny_bundles import TinyBundles
from tiny_project import CHECKOUT

PLAYGROUND = CHECKOUT / "playground"
PRECISIONS = ("fp32", "int8", "int4")
REGISTRY_IS_AWAY = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ECONNRESET")


@pytest.fixture(scope="session")
def npm() -> str:
    """npm of the same environment as this Python, and what package-lock.json lists, installed."""
    found = shutil.which("npm", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("no npm beside this Python: pip install -e '.[playground]'")
    stamp = PLAYGROUND / "node_modules/.package-lock.json"
    lock = PLAYGROUND / "package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
        installed = run(found, "ci", "--no-audit", "--no-fund")
        if installed.returncode and any(sign in installed.stderr for sign in REGISTRY_IS_AWAY):
            pytest.skip("the npm registry cannot be reached")
        assert installed.returncode == 0, installed.stderr
        stamp.touch()
    return found


def run(npm: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """npm in the playground's folder, with the node beside it."""
    path = f"{Path(npm).parent}:/usr/bin:/bin"
    command = [npm, *arguments]
    environment = {**os.environ, "PATH": path, "HOME": str(CHECKOUT / ".cache")}
    return subprocess.run(command, cwd=PLAYGROUND, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def node(npm: str) -> Iterator[Node]:
    node = Node(str(Path(npm).with_name("node")))
    yield node
    assert node.process.stdin
    node.process.stdin.close()
    assert node.process.wait(timeout=20) == 0


@pytest.fixture(scope="session")
def site(npm: str, bundles: TinyBundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built page with a tiny bundle of every variant in every precision."""
    folder = tmp_path_factory.mktemp("site") / "some" / "place"
    built = run(npm, "run", "build", "--", "--outDir", str(folder), "--emptyOutDir", "--logLevel", "warn")
    assert built.returncode == 0, built.stdout + built.stderr
    source = tmp_path_factory.mktemp("onnx")
    for variant in (*LESSON, "bilstm"):
        for precision in PRECISIONS:
            shutil.copytree(bundles(variant, "bpe", precision), source / variant / precision)
    gather = [sys.executable, str(PLAYGROUND / "gather.py"), str(source), str(folder)]
    gathered = subprocess.run(gather, capture_output=True, text=True, check=False)
    assert gathered.returncode == 0, gathered.stderr
    return folder


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where a plain static server has the page: not at its root."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site.parent.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/some/place/"
        server.shutdown()


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None or shutil.which("chromedriver") is None:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    return found


@pytest.fixture(scope="session")
def browsers(chromium: str, address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`browsers(…)` is a browser of that kind, the same for all tests."""
    folder = tmp_path_factory.mktemp("browsers")
    opened: list[Browser] = []

    @functools.cache
    def browser(**given: Any) -> Browser:
        opened.append(Browser(chromium, address, folder / f"net{len(opened)}.json", **given))
        return opened[-1]

    yield browser
    for each in opened:
        each.close()


@pytest.fixture
def open_page(chromium: str, address: str, browsers: Any, tmp_path: Path) -> Iterator[Any]:
    """`open_page(query, …)` is a browser that shows the page; see `Browser`. `alone`: this test's only."""
    opened: list[Browser] = []

    def open_(query: str | dict[str, Any] = "", alone: bool = False, **given: Any) -> Browser:
        browser: Browser = Browser(chromium, address, tmp_path / "net.json", **given) if alone else browsers(**given)
        if alone:
            opened.append(browser)
        browser.console()
        browser.show(query)
        return browser

    yield open_
    for browser in opened:
        browser.close()
