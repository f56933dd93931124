"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

# Models this small only lose by a second thread, and torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import xdist.scheduler
from shared import made_once, shared_root
from tiny_project import CHECKOUT, Project, clone_of_this_checkout

if TYPE_CHECKING:
    from tiny_bundles import TinyBundles

# pytest's temporary folders stay in the checkout, like everything else.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(CHECKOUT / ".cache"))
(CHECKOUT / ".cache").mkdir(exist_ok=True)


# Compiled modules are imported in a third of the time, by each of the hundreds of processes that the tests start. Many
# containers forbid to write them; here they lie in one folder of the checkout, and in no project that a test looks at.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = str(CHECKOUT / ".cache/pycache")
sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["PYTHONPYCACHEPREFIX"]


# As hypothesis does by itself where it finds a CI: the same examples in every run, and none fails for being slow.
hypothesis.settings.load_profile("ci")

# A folder whose tests share a server, a built page or browsers: they run in one process.
TOGETHER = ("playground", "serving")
# The groups that take longest begin first, so that neither process waits for the other at the end.
LONGEST = (
    "project",
    "serving",
    "playground",
    "tests/tracking/test_mlflow_mirror.py",
    "tests/tracking/test_model_registry.py",
    "tests/export/test_precisions.py",
    "tests/export/test_graphs.py",
    "tests/variants/test_contract.py",
    "tests/training/test_checkpoint.py",
)

# `make test-fast` leaves out the tests with these fixtures, the files that use these helpers, and those whose tests
# trace models with torch's exporter or wait for processes of their own, for many seconds.
SYSTEM_FIXTURES = {"cloned", "npm"}
SYSTEM_HELPERS = re.compile(r"^from (browser|mlflow_project|node_process|server_process|servers) import", re.MULTILINE)
LONG = {
    "cli": ("test_cli",),
    "export": ("test_exact_graph", "test_generator_settings", "test_graphs", "test_precisions", "test_sums"),
    "training": ("test_checkpoint", "test_distributed"),
    "verify": ("test_faults", "test_verify"),
}


def group_of(nodeid: str) -> str:
    """The files that a test runs beside: those of its mark's group, of its folder, or its own file alone."""
    file = nodeid.partition("::")[0]
    marked = re.search(r'^pytestmark = pytest\.mark\.xdist_group\("(\w+)"\)', _text_of(file), re.MULTILINE)
    if marked:
        return marked[1]
    folder = Path(file).parent.name
    return folder if folder in TOGETHER else file


@cache
def _text_of(file: str) -> str:
    return (CHECKOUT / file).read_text(encoding="utf-8")


class Grouped(xdist.scheduler.LoadScopeScheduling):
    """xdist's own loadgroup finds no marks under pytest 9.2: it puts them into a name that pytest no longer reads."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Grouped:
    return Grouped(config, log)


@cache
def needs_a_system(file: Path) -> bool:
    """Whether a file's tests run a server, node, a browser or MLflow; of a folder, whether all its files' do."""
    return _all_files(file, lambda each: bool(SYSTEM_HELPERS.search(each.read_text(encoding="utf-8"))))


@cache
def takes_long(file: Path) -> bool:
    """Whether a file, or all of a folder, is one of LONG."""
    return _all_files(file, lambda each: each.stem in LONG.get(each.parent.name, ()))


def _all_files(path: Path, test: Callable[[Path], bool]) -> bool:
    if path.is_dir():
        files = list(path.glob("test_*.py"))
        return bool(files) and all(map(test, files))
    return path.suffix == ".py" and test(path)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What `make test-fast` leaves out is not even imported, which takes seconds."""
    chosen: str = config.option.markexpr
    left_out = ("not system" in chosen and needs_a_system(collection_path)) or (
        "not long" in chosen and takes_long(collection_path)
    )
    return left_out or None


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        assert isinstance(item, pytest.Function)
        if SYSTEM_FIXTURES & set(item.fixturenames) or needs_a_system(item.path):
            item.add_marker(pytest.mark.system)
        if takes_long(item.path):
            item.add_marker(pytest.mark.long)
    order = {group: number for number, group in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(group_of(item.nodeid), len(order)))


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    """MLflow puts a model's own code before all other: a process that a later test starts would find that."""
    before = sys.path[:]
    yield
    sys.path[:] = before


@pytest.fixture(scope="session")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project before anything ran."""
    root = made_once(shared_root(tmp_path_factory) / "tiny", clone_of_this_checkout)
    return Project(root / "project", root / "outside")


@pytest.fixture(scope="session")
def finished(cloned: Project) -> Project:
    """A copy of the tiny project after one `dvc repro`, to copy from: nobody runs anything in it."""

    def repro(root: Path) -> None:
        cloned.repro()
        cloned.commit()
        cloned.copy(root)

    root = made_once(cloned.folder.parents[1] / "finished", repro)
    return Project(root / "project", root / "outside")


@pytest.fixture(scope="session")
def reproduced(cloned: Project, finished: Project) -> Project:
    """The tiny project after one `dvc repro`. The tests of the group "project" read it; others take `project`."""
    return cloned


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the reproduced project, for one test alone."""
    yield finished.copy(tmp_path)
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> TinyBundles:
    """`bundles(variant, kind of tokenizer)` is the folder of a tiny bundle."""
    from tiny_bundles import TinyBundles  # and torch, which takes seconds, and only who makes one needs it

    return TinyBundles(shared_root(tmp_path_factory) / "bundles")


@pytest.fixture
def refuses() -> Callable[[subprocess.CompletedProcess[str], str], None]:
    """Check that a program ended as it does on bad input: status 2, and one line that holds a given text."""

    def check(result: subprocess.CompletedProcess[str], text: str) -> None:
        assert result.returncode == 2, result.stderr
        assert re.fullmatch(r"recurlm: .+\n", result.stderr), result.stderr
        assert text in result.stderr

    return check
