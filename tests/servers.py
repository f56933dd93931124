"""Servers of a team, real ones on 127.0.0.1: PostgreSQL, and an S3 API (moto) with its own packages."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import pytest
from configs import CHECKOUT
from shared import made_once

NEEDED = ("initdb", "pg_ctl", "postgres")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def programs() -> Path | None:
    """The folder of PostgreSQL's programs: Debian keeps them out of the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders += [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    return next((each for each in folders if all((each / name).exists() for name in NEEDED)), None)


@contextmanager
def postgresql(password: str | None = None) -> Iterator[str]:
    """The address of an empty database, in a cluster of its own; with a password it lets nobody in who has it not."""
    pytest.importorskip("psycopg2", reason="PostgreSQL's driver is in recurlm[dev]")
    binaries = programs()
    if binaries is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    user = None
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = next(
            (each for each in ("postgres", "nobody") if each in {entry.pw_name for entry in pwd.getpwall()}), None
        )
        if user is None:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
    # Below the system's temporary folder: another user must reach it, and a socket's path is short.
    folder = Path(mkdtemp(prefix="recurlm-pg-"))
    given = folder / "given"
    given.write_text(password or "none", encoding="utf-8")
    if user:
        shutil.chown(folder, user)
        shutil.chown(given, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), *arguments]
        subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True, timeout=120)

    port, data = free_port(), str(folder / "data")
    method = "scram-sha-256" if password else "trust"
    try:
        run("initdb", "-D", data, "-U", "recurlm", f"--auth={method}", f"--pwfile={given}", "--no-sync")
        given.unlink()
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            user_name = f"recurlm:{password}" if password else "recurlm"
            yield f"postgresql+psycopg2://{user_name}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def team_packages(folder: Path) -> str:
    """A folder for PYTHONPATH with what the extras `team` and `team-test` add; skips where pip cannot install them."""

    def install(folder: Path) -> None:
        venv.create(folder, with_pip=False)
        python, present = str(folder / "bin/python"), sysconfig.get_paths()["purelib"]
        (_site(folder) / "present.pth").write_text(present, encoding="utf-8")  # pip adds to what is here
        extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        command = [python, "-m", "pip", "install", "--quiet", "-c", str(CHECKOUT / "requirements.lock")]
        done = subprocess.run([*command, *extras["team"], *extras["team-test"]], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            pytest.skip(f"pip cannot install the extras team and team-test: {last}")

    if all(find_spec(name) for name in ("boto3", "dvc_s3", "moto", "kubernetes_validate")):
        return ""
    return str(_site(made_once(folder, install)))


def _site(folder: Path) -> Path:
    return next(folder.glob("lib/python*/site-packages"))


# A user who may do everything with S3; after that the server refuses all but signed requests.
LOCK = """
import json, urllib.request, boto3
options = {"endpoint_url": ADDRESS, "aws_access_key_id": "none", "aws_secret_access_key": "none"}
options["region_name"] = "us-east-1"
iam = boto3.client("iam", **options)
iam.create_user(UserName="team")
policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
iam.put_user_policy(UserName="team", PolicyName="all", PolicyDocument=json.dumps(policy))
boto3.client("s3", **options).create_bucket(Bucket="recurlm")
key = iam.create_access_key(UserName="team")["AccessKey"]
headers = {"Content-Type": "text/plain"}
urllib.request.urlopen(urllib.request.Request(ADDRESS + "/moto-api/reset-auth", b"0", headers))
print(json.dumps([key["AccessKeyId"], key["SecretAccessKey"]]))
"""


@contextmanager
def s3(packages: str, folder: Path) -> Iterator[dict[str, str]]:
    """The environment of clients of an S3 API that has a bucket `recurlm`, and keeps what it is given in memory."""
    port = free_port()
    address, log = f"http://127.0.0.1:{port}", folder / "s3.log"
    environment = os.environ | {"PYTHONPATH": packages}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said, env=environment) as server:
        try:
            end = time.monotonic() + 120
            while not _answers(f"{address}/moto-api/data.json"):
                assert server.poll() is None, log.read_text(encoding="utf-8")
                assert time.monotonic() < end
                time.sleep(0.2)
            made = subprocess.run(
                [sys.executable, "-c", f"ADDRESS = {address!r}{LOCK}"], env=environment, capture_output=True, text=True
            )
            assert made.returncode == 0, made.stderr
            user, secret = json.loads(made.stdout)
            yield {
                "AWS_ENDPOINT_URL": address,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": user,
                "AWS_SECRET_ACCESS_KEY": secret,
            }
        finally:
            server.terminate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False
