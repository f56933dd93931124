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

# Models this small only lose by a second thread, and torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import xdist.scheduler
from tiny_bundles import TinyBundles
from tiny_project import CHECKOUT, Project, clone_of_this_checkout

# pytest's temporary folders stay in the checkout, like everything else.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(CHECKOUT / ".cache"))
(CHECKOUT / ".cache").mkdir(exist_ok=True)


# Files that share what takes minutes to make run in one process: the tiny project, and the tiny bundles.
BUNDLES = ("cli", "playground", "runtime", "serving")


def group_of(nodeid: str) -> str:
    """The files that a test runs beside: a mark's group, those that use bundles, or its own file alone."""
    file = nodeid.partition("::")[0]
    marked = re.search(r'^pytestmark = pytest\.mark\.xdist_group\("(\w+)"\)', _text_of(file), re.MULTILINE)
    if marked:
        return marked[1]
    return "bundles" if Path(file).parent.name in BUNDLES else file


@cache
def _text_of(file: str) -> str:
    return (CHECKOUT / file).read_text(encoding="utf-8")


class Grouped(xdist.scheduler.LoadScopeScheduling):
    """xdist's own loadgroup finds no marks under pytest 9.2: it puts them into a name that pytest no longer reads."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Grouped:
    return Grouped(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest groups begin first, so that neither process waits for the other at the end."""
    first = {"project": 0, "bundles": 1}
    items.sort(key=lambda item: first.get(group_of(item.nodeid), 2))


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    """MLflow puts a model's own code before all other: a process that a later test starts would find that."""
    before = sys.path[:]
    yield
    sys.path[:] = before


@pytest.fixture(scope="session")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project before anything ran."""
    return clone_of_this_checkout(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def reproduced(cloned: Project) -> Project:
    """The tiny project after one `dvc repro`. Tests read it; those that change something take `project`."""
    cloned.repro()
    cloned.commit()
    return cloned


@pytest.fixture
def project(reproduced: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the reproduced project, for one test alone."""
    yield reproduced.copy(tmp_path)
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> TinyBundles:
    """`bundles(variant, kind of tokenizer)` is the folder of a tiny bundle."""
    return TinyBundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def refuses() -> Callable[[subprocess.CompletedProcess[str], str], None]:
    """Check that a program ended as it does on bad input: status 2, and one line that holds a given text."""

    def check(result: subprocess.CompletedProcess[str], text: str) -> None:
        assert result.returncode == 2, result.stderr
        assert re.fullmatch(r"recurlm: .+\n", result.stderr), result.stderr
        assert text in result.stderr

    return check
