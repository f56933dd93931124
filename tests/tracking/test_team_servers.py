"""A team's object storage, a real S3 API on 127.0.0.1: what one clone pushed another pulls, and trains nothing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from configs import CHECKOUT
from mlflow_project import QUIET, serving
from servers import s3, team_packages
from shared import shared_root
from tiny_project import Project


@dataclass
class Team:
    """A project that pushed its results, and a clone that pulled them."""

    origin: Project
    clone: Project
    pushed: str  # what `dvc push` and `dvc pull` said
    pulled: str


def dvc(project: Project, *arguments: str) -> str:
    done = project.run("dvc", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, finished: Project) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    packages = team_packages(shared_root(tmp_path_factory) / "team-venv")
    (folder / "logs").mkdir()
    with s3(packages, folder / "logs") as storage:
        origin = finished.copy(folder / "origin")
        clone = Project(folder / "clone/project", folder / "clone/outside")
        for project in (origin, clone):
            project.environment |= QUIET | storage
            project.environment["PYTHONPATH"] = f"{project.folder / 'src'}{os.pathsep}{packages}"
        dvc(origin, "remote", "add", "--default", "team", "s3://recurlm/dvc")
        origin.commit()
        pushed = dvc(origin, "push")
        origin.git("clone", "--quiet", str(origin.folder), str(clone.folder))
        clone.keep_notes_inside()
        pulled = dvc(clone, "pull")
        yield Team(origin, clone, pushed, pulled)


def results(project: Project) -> dict[str, bytes]:
    folders = [project.folder / "data" / name for name in ("corpus", "tokens", "models", "graphs", "onnx")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(project.folder).as_posix(): path.read_bytes() for path in files}


def test_a_fresh_clone_pulls_in_place_of_training(team: Team) -> None:
    assert results(team.clone) == results(team.origin)
    assert any(name.endswith("model.safetensors") for name in results(team.clone))
    assert team.clone.repro() <= {"report", "track"}
    assert "No remote provided" not in team.pushed + team.pulled


def test_the_keys_of_the_storage_are_in_no_file_and_no_output(team: Team) -> None:
    keys = [team.origin.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    places = [place for each in (team.origin, team.clone) for place in (each.folder, each.home, each.temporary)]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert [path for path in files if any(key.encode() in path.read_bytes() for key in keys)] == []
    assert not any(key in team.pushed + team.pulled for key in keys)


def test_without_its_key_the_storage_refuses(team: Team, tmp_path: Path) -> None:
    foreign = Project(tmp_path / "project", tmp_path / "outside")
    shutil.copytree(team.clone.folder, foreign.folder, ignore=shutil.ignore_patterns("data", "cache", ".cache"))
    foreign.environment = team.clone.environment | {"AWS_SECRET_ACCESS_KEY": "another"}
    done = foreign.run("dvc", "pull", "train@gru")
    assert done.returncode != 0
    assert not (foreign.folder / "data/models").exists()


def test_mlflow_answers_clients_that_name_it_as_documented_and_no_others(tmp_path: Path) -> None:
    compose = yaml.safe_load((CHECKOUT / "deploy/compose.yaml").read_text(encoding="utf-8"))
    command = shlex.split(compose["services"]["mlflow"]["command"])
    (documented,) = re.findall(r"^mlflow server .*$", (CHECKOUT / "docs/team.md").read_text(encoding="utf-8"), re.M)
    assert shlex.split(documented) == command
    (hosts,) = [value for name, value in pairwise(command) if name == "--allowed-hosts"]
    where = ("--host", "127.0.0.1", "--port", "{port}", "--workers", "1", "--allowed-hosts", hosts)
    store = ("--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db")
    with serving(tmp_path, "server", *where, *store, ready="/health") as address:
        place = address.removeprefix("http://")

        def status(host: str) -> int:
            connection = HTTPConnection(place, timeout=60)
            path = "/api/2.0/mlflow/experiments/search?max_results=1"
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse().status

        job = (CHECKOUT / "deploy/kubernetes.yaml").read_text(encoding="utf-8")
        (named,) = re.findall(r"value: http://(mlflow:\d+)", job)
        hosts_and_answers = {host: status(host) for host in (named, "localhost:5000", place, "elsewhere.org")}
        assert hosts_and_answers == {named: 200, "localhost:5000": 200, place: 200, "elsewhere.org": 403}
