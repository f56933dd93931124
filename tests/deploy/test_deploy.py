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
from servers import team_packages
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
