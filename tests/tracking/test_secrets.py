"""The password of a tracking server, or of its database: in no file, no row and no output of whoever used it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy
from fabricated_results import write_results
from mlflow_project import runs, serving, start
from servers import postgresql

from recurlm.tracking.live import Follower
from recurlm.tracking.store import StoreError
from recurlm.training.journal import Journal

PASSWORD = "a-password-of-the-store"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with results; its processes have a temporary folder of their own beside it."""
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(project)
    write_results(project, ["rnn"])
    return project


def log(project: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Log a training while it goes on, and results; what was said."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    journal, said = Journal(project / "data/checkpoints/gru.jsonl", "a key", "gru"), []
    journal.write(1, {"train_loss": 2.0})
    try:
        Follower(journal.path, "recurlm").log("FINISHED")
    except StoreError as error:
        said += [str(error), error.problem]
    return "\n".join([*said, start(project).communicate(timeout=300)[1]])


def files_with_it(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if PASSWORD.encode() in path.read_bytes()]


def test_a_password_in_the_address_of_a_server_stays_there(
    project: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    where = ["--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    said = log(project, f"http://somebody:{PASSWORD}@127.0.0.1:9", monkeypatch)
    assert said.count("http://127.0.0.1:9: out of reach") >= 2
    with serving(folder, "server", *where, *places, ready="/health") as address:
        said += log(project, address.replace("//", f"//somebody:{PASSWORD}@"), monkeypatch)
        assert runs(project).keys() == {"gru", "rnn"}
    assert PASSWORD not in said + "".join(capfd.readouterr())
    assert files_with_it(tmp_path) == []


def test_a_password_of_the_database_stays_in_its_address(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with postgresql(PASSWORD) as address:
        said = log(project, address.replace(PASSWORD, f"{PASSWORD}-not"), monkeypatch)
        assert "password" in said
        said += log(project, address, monkeypatch)
        assert runs(project).keys() == {"gru", "rnn"}
        engine = sqlalchemy.create_engine(address)
        with engine.connect() as connection:
            tables = sqlalchemy.inspect(engine).get_table_names()
            rows = [row for table in tables for row in connection.execute(sqlalchemy.text(f'SELECT * FROM "{table}"'))]
        engine.dispose()
    assert "recurlm" in str(rows)
    assert PASSWORD not in str(rows)
    assert PASSWORD not in said + "".join(capfd.readouterr())
    assert files_with_it(tmp_path) == []
