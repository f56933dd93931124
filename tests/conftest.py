"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

# Models this small only lose by a second thread, and torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from tiny_bundles import TinyBundles
from tiny_project import CHECKOUT, Project, clone_of_this_checkout

# pytest's temporary folders stay in the checkout, like everything else.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(CHECKOUT / ".cache"))
(CHECKOUT / ".cache").mkdir(exist_ok=True)


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
