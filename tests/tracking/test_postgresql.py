"""PostgreSQL as MLflow's store, a real server of one's own: used first by several at once, deleted, and used again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fabricated_results import VARIANTS, write_results
from mlflow_project import all_runs, finish, pipelines, runs, start, versions
from servers import postgresql

from recurlm.tracking.sync import sync


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of an empty database, in a cluster that lives as long as the tests."""
    with postgresql() as address:
        yield address


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
