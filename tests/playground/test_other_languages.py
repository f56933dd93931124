"""docs/deploying.md is true: its tables are those of a real graph, its programs generate Python's tokens."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from pages import Page
from tiny_bundles import TinyBundles
from tiny_project import CHECKOUT

from recurlm.runtime import Bundle, Generator
from recurlm.runtime.generator import INPUTS, OPTIONAL

PAGE = Page("docs/deploying.md")
DEPLOY = CHECKOUT / "docs/deploy"
TYPES = {"int64": "tensor(int64)", "float32": "tensor(float)", "bool": "tensor(bool)"}
PROMPT = "king or night\nthe sea's crown, naïve 12"
DRAW = 0.37  # the uniform number of every token


def described(graph: str, header: str) -> dict[str, tuple[str, int]]:
    """Name → type and rank, as a table of the page has it."""
    rows = PAGE.table(f"\n| {header} | type | shape", graph).by_first_cell
    return {
        name.strip("`"): (
            TYPES[cells["type"]],
            0 if cells["shape"] == "a scalar" else 1 + cells["shape"].count(","),
        )
        for name, cells in rows.items()
    }


def actual(values: list[Any], spec: dict[str, tuple[int, ...]]) -> dict[str, tuple[str, int]]:
    found = {}
    for value in values:
        head, dot, state = value.name.partition("state.")
        rank = 2 if dot else len(value.shape)
        if dot:
            assert tuple(value.shape[1:]) == spec[state]
        many = f"{head}state.*" if dot else "gate.*" if value.name.startswith("gate.") else ""
        found[many or value.name] = (value.type, rank)
    return found


@pytest.mark.parametrize("graph", ["generator.onnx", "step.onnx"])
def test_its_tables_are_the_inputs_and_outputs_of_the_graph(bundles: TinyBundles, graph: str) -> None:
    bundle = Bundle.open(bundles("lstm"))
    session = onnxruntime.InferenceSession(str(bundle.folder / graph))
    assert described(graph, "input") == actual(session.get_inputs(), bundle.state_spec)
    assert described(graph, "output") == actual(session.get_outputs(), bundle.state_spec)


def expected(folder: Path, count: int, temperature: float) -> list[int]:
    """The tokens of one call of the graph, up to `<bos>`."""
    generator = Generator.from_bundle(folder)
    prompt = generator.prompt_ids(PROMPT)
    feeds = {
        "prompt": np.array([prompt]),
        "prompt_length": np.array([len(prompt)]),
        "max_new_tokens": np.array(count),
        "temperature": np.array([temperature], np.float32),
        "top_k": np.array([40]),
        "top_p": np.array([0.95], np.float32),
        "uniform": np.full((1, count), DRAW, np.float32),
    }
    results, _ = generator.bundle.session("generator.onnx", INPUTS | OPTIONAL, None).run(["tokens"], feeds)
    return [*results["tokens"][0].tolist(), 0][: [*results["tokens"][0].tolist(), 0].index(0)]


def test_its_javascript_generates_pythons_text(npm: str, bundles: TinyBundles) -> None:
    """With onnxruntime-web in place of onnxruntime-node: the interface is the same."""
    folder = bundles("lstm")
    text = Bundle.open(folder).vocabulary.text(expected(folder, 60, 0.8))
    assert len(text) > 20
    assert run_in_node(npm, "generate.mjs", str(folder), PROMPT, "60", "0.8") == f"{PROMPT}{text}\n"


def test_its_loop_in_javascript_generates_pythons_tokens(npm: str, bundles: TinyBundles) -> None:
    folder = bundles("lstm", "bpe", "int8")
    prompt = map(str, Generator.from_bundle(folder).prompt_ids(PROMPT))
    printed = run_in_node(npm, "step.mjs", str(folder), "60", "0", *prompt)
    assert [int(token) for token in printed.split()] == expected(folder, 60, 0.0)


def run_in_node(npm: str, name: str, *arguments: str) -> str:
    """What a program of docs/deploy prints, with onnxruntime-web, where chance always says DRAW."""
    program = (DEPLOY / name).read_text(encoding="utf-8")
    assert program.count('"onnxruntime-node"') == 1
    program = f"Math.random = () => {DRAW};\n" + program.replace("onnxruntime-node", "onnxruntime-web")
    # Where node finds the playground's packages.
    place = CHECKOUT / "playground/node_modules/.deploying"
    place.mkdir(exist_ok=True)
    (place / name).write_text(program, encoding="utf-8")
    command = [str(Path(npm).with_name("node")), str(place / name), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(place)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.skipif("ORT_INCLUDE" not in os.environ, reason="ORT_INCLUDE names no folder with onnxruntime_c_api.h")
def test_its_c_generates_pythons_tokens(bundles: TinyBundles, tmp_path: Path) -> None:
    folder = bundles("lstm")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(library)
    options = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{os.environ['ORT_INCLUDE']}", f"-L{tmp_path}"]
    program = tmp_path / "generate"
    source = str(DEPLOY / "generate.c")
    subprocess.run(["cc", *options, source, "-lonnxruntime", f"-Wl,-rpath,{tmp_path}", "-o", str(program)], check=True)
    prompt = map(str, Generator.from_bundle(folder).prompt_ids(PROMPT))
    command = [str(program), str(folder / "generator.onnx"), "60", "0", "1", *prompt]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [int(token) for token in printed.split()] == expected(folder, 60, 0.0)


def test_its_dockerfile_copies_what_exists_and_does_not_run_as_root() -> None:
    lines = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8")).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    last = dict(steps)
    assert last["USER"] == "10001"
    assert last["HEALTHCHECK"].startswith("--interval=10s --timeout=3s")
    start = json.loads(last["ENTRYPOINT"])
    assert start[:2] == ["recurlm", "serve"]
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for step, what in steps if step == "COPY" for word in what.split()[:-1]} - {"${BUNDLE}"}
    assert copied == kept - {"data/onnx"}
    assert all((CHECKOUT / name).exists() for name in copied)
    compile((json.loads(last["HEALTHCHECK"].partition("CMD ")[2])[2]), "health check", "exec")
