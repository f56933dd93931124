"""The Makefile: what it lists, and when it installs."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
from tiny_project import Project

pytestmark = pytest.mark.xdist_group("project")


@pytest.fixture
def clone(cloned: Project, tmp_path: Path) -> Project:
    return cloned.copy(tmp_path)


def make(clone: Project, *arguments: str) -> str:
    result = clone.run("make", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_make_alone_lists_every_target(clone: Project) -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (clone.folder / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    assert [line.split()[1] for line in make(clone).splitlines()] == phony[1].split()


def test_a_second_setup_installs_nothing(clone: Project) -> None:
    assert "pip install" in make(clone, "--dry-run", "setup")
    (clone.folder / ".venv").mkdir()
    (clone.folder / ".venv/installed").touch()
    assert "pip install" not in make(clone, "--dry-run", "setup")
    assert "Nothing to be done" in make(clone, "setup")


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_what_is_to_be_installed_decides_when_to_install(clone: Project, name: str) -> None:
    (clone.folder / ".venv").mkdir()
    (clone.folder / ".venv/installed").touch()
    later = (clone.folder / ".venv/installed").stat().st_mtime + 10
    os.utime(clone.folder / name, (later, later))
    assert "pip install" in make(clone, "--dry-run", "test")


SERVERS = ("ui", "playground", "serve")


def test_each_server_has_a_port_of_its_own(clone: Project) -> None:
    ports = re.findall(r"^make (\w+) .*http://127\.0\.0\.1:(\d+)", make(clone), re.MULTILINE)
    assert {name for name, _ in ports} == set(SERVERS)
    assert len({port for _, port in ports}) == len(SERVERS)


def test_a_port_that_is_taken_is_named(clone: Project) -> None:
    for name in (".venv/bin/activate", "playground/node_modules/.package-lock.json", ".venv/installed"):
        (clone.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (clone.folder / name).touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for name in SERVERS:
            refused = clone.run("make", name, f"PORT={port}")
            assert refused.returncode == 2
            assert f"port {port} is taken: make {name} PORT=…\n" in refused.stderr


def test_compiled_modules_are_kept_where_a_container_forbids_it(clone: Project) -> None:
    clone.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    assert make(clone, "--eval", "shown:;@echo =$$PYTHONDONTWRITEBYTECODE", "shown") == "=\n"
