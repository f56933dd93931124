"""PostgreSQL as MLflow's store, a real server of one's own: used first by several at once, deleted, and used again."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from fabricated_results import VARIANTS, write_results
from mlflow_project import all_runs, finish, pipelines, runs, start, versions

from recurlm.tracking.sync import sync

NEEDED = ("initdb", "pg_ctl", "postgres")


def programs() -> Path | None:
    """The folder of PostgreSQL's programs: Debian keeps them out of the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders += [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    return next((each for each in folders if all((each / name).exists() for name in NEEDED)), None)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of an empty database, in a cluster that lives as long as the tests."""
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
    if user:
        shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), *arguments]
        subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True, timeout=120)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", "recurlm", "--auth=trust", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://recurlm@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_clones_that_use_a_database_first_at_once_log_each_result_once(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clones = [tmp_path / name for name in ("one", "two", "three")]
    for clone in clones:
        clone.mkdir()
        write_results(clone)
    processes = [start(clone, MLFLOW_TRACKING_URI=database) for clone in clones]
    said = Counter(line for process in processes for line in finish(process) if "logged" in line)
    assert said == {f"track: logged {name}": 1 for name in VARIANTS}

    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.chdir(clones[0])  # MLflow would put files without a server below the folder that it runs in
    assert runs(clones[0]).keys() == set(VARIANTS)
    (above,) = pipelines(clones[0])
    assert {run.data.tags["recurlm.pipeline_run"] for run in runs(clones[0]).values()} == {above.info.run_id}
    registered = {"recurlm": [("lstm", "fp32")]} | {f"recurlm-{name}": [(name, "fp32")] for name in VARIANTS}
    assert versions(clones[0]) == registered
    assert sync(clones[1]) == []
    assert len(all_runs(clones[0])) == 1 + len(VARIANTS)
