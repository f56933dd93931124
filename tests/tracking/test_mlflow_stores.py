"""Stores that are served, out of reach, damaged or go away in the middle: one line, no result lost, all of it later."""

from __future__ import annotations

import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess, run
from threading import Barrier, Event, Lock, Thread
from urllib.parse import urlsplit

import pytest
import yaml
from fabricated_results import VARIANTS, write_lock, write_results
from mlflow import MlflowClient
from mlflow_project import finish, pipelines, runs, serving, start, track

from recurlm.errors import InputError
from recurlm.tracking import store
from recurlm.tracking.registry import versions_of
from recurlm.tracking.store import DamagedStoreError
from recurlm.tracking.sync import sync

Refuses = Callable[[CompletedProcess[str], str], None]


def garbage(content: bytes) -> bytes:
    return b"no database" * 1000


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def lost_pages(content: bytes) -> bytes:
    """As a disk leaves it that lost what was written to it: the head stands, the rest is zeros."""
    return content[:4096] + bytes(len(content) - 4096)


@pytest.mark.parametrize("damage", [garbage, truncated, lost_pages])
def test_a_damaged_database_is_named_as_such(root: Path, damage: Callable[[bytes], bytes]) -> None:
    database = root / ".mlflow/mlflow.db"
    whole = damage(database.read_bytes())
    database.write_bytes(whole)
    with pytest.raises(
        DamagedStoreError, match=r"mlflow\.db: a damaged database .* results in data/ are complete: move"
    ):
        sync(root)
    assert database.read_bytes() == whole, "it is left as it was found"


def test_a_damaged_database_fails_no_pipeline_and_is_filled_again_once_it_is_away(
    root: Path, empty_store: Path, refuses: Refuses
) -> None:
    database = root / ".mlflow/mlflow.db"
    database.write_bytes(garbage(b""))
    (line,) = [line for line in finish(start(root)) if "damaged" in line]
    assert f"mv '{database}' '{database}.damaged'" in line
    assert (root / "data/tracked.json").is_file()
    command = [sys.executable, "-m", "recurlm.cli", "sync"]
    refuses(run(command, cwd=root, capture_output=True, text=True), "a damaged database")
    database.rename(f"{database}.damaged")
    shutil.copy(empty_store, database)  # MLflow takes some seconds to make one
    assert "logged lstm" in sync(root)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[str]:
    """A tracking server of one's own, which keeps the files that it is sent."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    where = ["--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    with serving(folder, "server", *where, *places, ready="/health") as address:
        yield address


def test_a_server_gets_each_result_once_with_its_files(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path)
    (tmp_path / "data/report").mkdir()
    (tmp_path / "data/report/index.html").write_text("<p>a report", encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert track(tmp_path) == list(VARIANTS)
    assert track(tmp_path) == []
    run = runs(tmp_path)["lstm"]
    assert run.data.metrics["test_bits_per_byte"] == 1.875
    with store.find(tmp_path).connected() as client:
        champion = client.get_model_version_by_alias("recurlm-lstm", "champion")
        model = champion.source.removeprefix("models:/")
        files = {file.path for file in client.list_logged_model_artifacts(model, "artifacts/fp32")}
        assert files == {f"artifacts/fp32/{file}" for file in ("bundle.json", "generator.onnx", "tokenizer.json")}
        (above,) = pipelines(tmp_path)
        assert "report/index.html" in {file.path for file in client.list_artifacts(above.info.run_id, "report")}
    assert not (tmp_path / ".mlflow/mlflow.db").exists()


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("http://somebody:secret@127.0.0.1:9", "http://127.0.0.1:9: out of reach"),
        ("sqlite:////dev/null/mlflow.db", "/dev/null"),
        ("carrierpigeon://loft", "carrierpigeon"),
    ],
)
def test_a_store_out_of_reach_is_one_line_and_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, problem: str
) -> None:
    write_results(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=re.escape(problem)) as refused:
        track(tmp_path)
    assert "secret" not in str(refused.value)


class Link(ThreadingHTTPServer):
    """A connection to a server that breaks for good after some requests."""

    left: int | None = None

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        super().__init__(("127.0.0.1", 0), Relay)


class Relay(BaseHTTPRequestHandler):
    server: Link

    def __getattr__(self, name: str) -> Callable[[], None]:
        """`do_GET`, `do_POST` and the like."""
        if name.startswith("do_"):
            return self.relay
        raise AttributeError(name)

    def relay(self) -> None:
        if self.server.left is not None:
            self.server.left -= 1
            if self.server.left < 0:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = HTTPConnection(self.server.target)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        except (HTTPException, OSError):
            return
        finally:
            connection.close()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type") or "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def link(server: str) -> Iterator[Link]:
    """A way to the tracking server."""
    with Link(server) as link:
        thread = Thread(target=link.serve_forever)
        thread.start()
        yield link
        link.shutdown()
        thread.join()


def write_clone(root: Path, experiment: str, variants: Sequence[str] = ("rnn", "lstm")) -> None:
    """The same results in every clone, for an experiment of their own."""
    root.mkdir(parents=True)
    write_results(root, variants)
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["report"]["experiment"] = experiment
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    write_lock(root)


def test_clones_on_several_machines_that_log_at_once_log_each_result_once(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = []
    for name in ("one", "two", "three"):
        write_clone(tmp_path / name, "shared")
        temporary = tmp_path / f"{name}-tmp"  # a machine's own, with its lock files
        temporary.mkdir()
        processes.append(start(tmp_path / name, MLFLOW_TRACKING_URI=server, TMPDIR=str(temporary)))
    said = [line for process in processes for line in finish(process)]
    assert sorted(line for line in said if "logged" in line) == ["track: logged lstm", "track: logged rnn"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    with store.find(tmp_path).connected() as client:
        experiment = client.get_experiment_by_name("shared")
        found = client.search_runs([experiment.experiment_id])
        assert sorted(run.info.run_name for run in found) == ["lstm", "pipeline, bpe 300, 1 epoch", "rnn"]
        assert {run.info.status for run in found} == {"FINISHED"}
        names = {model.name for model in client.search_registered_models() if model.name.startswith("shared")}
        assert names == {"shared", "shared-lstm", "shared-rnn"}
        assert [len(versions_of(name)) for name in sorted(names)] == [1, 1, 1]
    assert sync(tmp_path / "two") == []


def test_a_machine_that_died_while_it_logged_is_not_waited_for_long(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(store, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(store, "EXPIRES_SECONDS", 2.0)
    place = store.Store(server, None)
    with place.connected() as client:
        tags = {store.MACHINE: "another", store.HOLDER: "dead", store.BEAT: "7"}
        client.create_registered_model("lonely.lease", tags)
        held: list[str] = []

        def log(name: str) -> None:
            with store.leased(client, place, "lonely"):
                held.append(name)
                Event().wait(3.0)  # longer than a lease lasts without a beat
                held.append(name)

        # Two that wait, as if on two machines: the second one is not let in while the first still lives.
        threads = [Thread(target=log, args=(name,)) for name in ("a", "b")]
        monkeypatch.setattr(store.socket, "gethostname", iter(("one", "two")).__next__)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert held in (["a", "a", "b", "b"], ["b", "b", "a", "a"])
        assert store._tags(client, "lonely.lease") == {}


def test_two_machines_that_find_the_same_holder_dead_do_not_both_take_its_place(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "POLL_SECONDS", 0.5)
    monkeypatch.setattr(store, "EXPIRES_SECONDS", 0.0)
    both, delete, order, held = Barrier(2), MlflowClient.delete_registered_model, iter((0.0, 0.4)), Lock()

    def together(client: MlflowClient, name: str) -> None:
        """Both have seen the dead holder; the slower one deletes what the quicker one has made meanwhile."""
        both.wait(10)
        time.sleep(next(order))
        delete(client, name)

    def log(client: MlflowClient, name: str) -> None:
        store._take(client, "twice.lease", {store.MACHINE: name, store.HOLDER: name, store.BEAT: "0"})
        alone.append(held.acquire(blocking=False))
        time.sleep(2.0)
        held.release()
        monkeypatch.setattr(MlflowClient, "delete_registered_model", delete)
        client.delete_registered_model("twice.lease")

    alone: list[bool] = []
    with store.Store(server, None).connected() as client:
        client.create_registered_model("twice.lease", {store.HOLDER: "dead", store.BEAT: "7"})
        monkeypatch.setattr(MlflowClient, "delete_registered_model", together)
        threads = [Thread(target=log, args=(client, name)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        monkeypatch.setattr(store, "EXPIRES_SECONDS", 60.0)
        for thread in threads:
            thread.join()
    assert alone == [True, True]


def test_a_server_that_dies_in_the_middle_gets_the_rest_later_and_nothing_twice(
    tmp_path: Path, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    write_clone(root, "relayed", ["rnn"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{link.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for after in (20, 60):
        link.left = after
        with pytest.raises(InputError, match="out of reach; the results in data/ are complete"):
            sync(root)
    link.left = None
    sync(root)
    assert sync(root) == []
    with store.find(root).connected() as client:
        experiment = client.get_experiment_by_name("relayed")
        found = client.search_runs([experiment.experiment_id])
        assert sorted(run.info.run_name for run in found) == ["pipeline, bpe 300, 1 epoch", "rnn"]
        assert [len(versions_of(name)) for name in ("relayed", "relayed-rnn")] == [1, 1]
