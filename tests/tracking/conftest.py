"""Stores that cost MLflow some seconds to make, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fabricated_results import VARIANTS, write_results
from mlflow_project import track
from shared import made_once, shared_root

from recurlm.tracking import store


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes the place of its store into the environment, where the next test would find it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables and nothing in them, which takes MLflow some seconds to make."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", "")
            with store.Store(f"sqlite:///{folder}/mlflow.db", None).connected() as client:
                client.search_experiments()

    return made_once(shared_root(tmp_path_factory) / "store", make) / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    """A project with results, and a store that nothing was logged in."""
    root = tmp_path / "project"
    (root / ".mlflow").mkdir(parents=True)
    shutil.copy(empty_store, root / ".mlflow/mlflow.db")
    write_results(root)
    return root


@pytest.fixture(scope="session")
def logged(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A project that was logged once, for tests that only read."""
    root = tmp_path_factory.mktemp("logged")
    (root / ".mlflow").mkdir()
    shutil.copy(empty_store, root / ".mlflow/mlflow.db")
    write_results(root)
    (root / "data/report").mkdir()
    (root / "data/report/index.html").write_text("<p>a report", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        assert track(root) == list(VARIANTS)
    return root
