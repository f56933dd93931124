"""The examples of deploy/ are what their programs read, pin what they run, and hold no secret."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from configs import CHECKOUT
from servers import postgresql, team_packages
from shared import shared_root

DEPLOY = CHECKOUT / "deploy"
SECRETS = {"AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": "a-secret", "POSTGRES_PASSWORD": "another-secret"}
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def compose(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True) if shutil.which("docker") else None
    command = ["docker", "compose"] if plugin and plugin.returncode == 0 else ["docker-compose"]
    if shutil.which(command[0]) is None:
        pytest.skip("no docker compose here: apt-get install docker-compose")
    known = {key: value for key, value in os.environ.items() if key not in SECRETS and not key.startswith("PYTHON")}
    return subprocess.run(
        [*command, "--file", str(DEPLOY / "compose.yaml"), "config"],
        env=known | environment,
        capture_output=True,
        text=True,
    )


def test_compose_reads_its_file_and_takes_secrets_from_the_environment() -> None:
    done = compose(SECRETS)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)["services"]
    assert found.keys() == COMPOSE["services"].keys()
    assert found["database"]["environment"]["POSTGRES_PASSWORD"] == "another-secret"


@pytest.mark.parametrize("missing", SECRETS)
def test_compose_says_which_secret_is_missing(missing: str) -> None:
    done = compose({name: value for name, value in SECRETS.items() if name != missing})
    assert done.returncode != 0
    assert missing in done.stderr


def test_compose_pins_images_and_listens_to_this_machine_alone() -> None:
    for name, service in COMPOSE["services"].items():
        assert "build" in service or re.search(r":\S*\d", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET", key):
                assert value.startswith("${"), f"{name}: {key}"


def test_the_image_of_mlflow_has_the_versions_of_the_lock_and_of_the_extra() -> None:
    pinned = re.findall(r"[\w-]+==[\w.]+", (DEPLOY / "mlflow.Dockerfile").read_text(encoding="utf-8"))
    known = (CHECKOUT / "requirements.lock").read_text("utf-8") + (CHECKOUT / "pyproject.toml").read_text("utf-8")
    assert len(pinned) == 3
    assert all(pin in known for pin in pinned)


def test_kubernetes_takes_its_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = DEPLOY / "kubernetes.yaml"
    packages = team_packages(shared_root(tmp_path_factory) / "team-venv")

    def check(path: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(path)]
        return subprocess.run(command, env=os.environ | {"PYTHONPATH": packages}, capture_output=True, text=True)

    done = check(file)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path_factory.mktemp("wrong") / "kubernetes.yaml"
    wrong.write_text(file.read_text("utf-8").replace("completions: 4", "completions: four"), encoding="utf-8")
    assert check(wrong).returncode != 0


def test_the_job_of_kubernetes_has_one_run_and_enough_pods() -> None:
    service, job = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    most = int(re.search(r"--nnodes \d+:(\d+)", container["args"][0])[1])
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == most
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert f"{job['metadata']['name']}-0.{service['metadata']['name']}:29500" in container["args"][0]


STUB = """#!/bin/sh
echo "${0##*/} $*" >> calls
if [ "${0##*/}" = torchrun ] && [ -n "$RANK_0" ]; then
    mkdir -p data/models/lstm && touch data/models/lstm/model.safetensors
fi
"""


@pytest.mark.parametrize("has_model", [False, True])
def test_the_pod_that_has_the_model_pushes_it_whichever_it_is(tmp_path: Path, has_model: bool) -> None:
    _, job = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (tmp_path / "bin").mkdir()
    for name in ("dvc", "git", "torchrun"):
        (tmp_path / "bin" / name).write_text(STUB, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"JOB_COMPLETION_INDEX": "2" if has_model else "0", "RANK_0": "yes" if has_model else ""}
    subprocess.run([*container["command"], *container["args"]], cwd=tmp_path, env=environment, check=True)
    called = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    pushes = ["dvc commit --force train@lstm", "dvc push train@lstm", "git diff dvc.lock"]
    assert called[2:] == (pushes if has_model else [])


def test_postgresql_has_the_database_of_shared_searches() -> None:
    (file,) = DEPLOY.glob("*.sql")
    service = COMPOSE["services"]["database"]
    assert f"./{file.name}:/docker-entrypoint-initdb.d/{file.name}:ro" in service["volumes"]
    with postgresql() as address:
        import psycopg2

        connection = psycopg2.connect(address.replace("+psycopg2", ""))
        connection.autocommit = True
        connection.cursor().execute(file.read_text(encoding="utf-8"))
        connection.close()
        psycopg2.connect(address.replace("+psycopg2", "").replace("/postgres", "/optuna")).close()


def test_what_adds_an_extra_to_a_checkout_leaves_its_source_in_place() -> None:
    """Without -e pip puts a copy in place of the checkout, and DVC hashes what no stage runs."""
    files = [CHECKOUT / "docs/team.md", CHECKOUT / "docs/serving.md", CHECKOUT / "src/recurlm/cli/commands.py"]
    for file in files:
        commands = re.findall(r"pip install ([^#\n]*)'\.\[", file.read_text(encoding="utf-8"))
        assert commands, file
        assert all(command.endswith("-e ") for command in commands), file
