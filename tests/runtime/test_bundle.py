"""Promises of opening a bundle: whole and unharmed, or one line that says what is wrong."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_bundles import TinyBundles
from tiny_project import CHECKOUT

import recurlm
from recurlm import runtime
from recurlm.errors import InputError
from recurlm.export.bundle import made_by
from recurlm.runtime import Bundle, Filler, Generator, Scorer
from recurlm.storage import sha256_of, write_sealed_json


def test_the_runtime_imports_nothing_of_the_pipeline() -> None:
    modules = set()
    for path in Path(runtime.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                modules.add(str(node.module))
            elif isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
    own = {name for name in modules if name.startswith("recurlm") and not name.startswith("recurlm.runtime")}
    assert own == {"recurlm.errors", "recurlm.storage"}
    others = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"recurlm"}
    assert others == {"numpy", "onnxruntime", "tokenizers"}


@pytest.fixture
def copy(bundles: TinyBundles, tmp_path: Path) -> Path:
    """A bundle to harm, in a folder of its own."""
    return Path(shutil.copytree(bundles("lstm"), tmp_path / "onnx" / "lstm"))


def describe(folder: Path, **changes: Any) -> None:
    """Change bundle.json, and give every file its present hash."""
    path = folder / "bundle.json"
    description = json.loads(path.read_text()) | changes
    description["files"] = {name: {"sha256": sha256_of(folder / name)} for name in description["files"]}
    del description["seal"]
    write_sealed_json(path, description)


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        Generator.from_bundle(folder)
    message = str(caught.value)
    assert "\n" not in message.strip()
    return message


@pytest.mark.parametrize("name", ["generator.onnx", "scorer.onnx", "step.onnx", "tokenizer.json"])
def test_one_changed_byte_of_any_file_is_noticed(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    assert f"{name}: corrupted" in refused(copy)


def test_any_changed_byte_of_the_description_is_noticed(copy: Path) -> None:
    path = copy / "bundle.json"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert "bundle.json" in refused(copy)
    path.write_bytes(content + b" ")
    assert "bundle.json: corrupted" in refused(copy)


@pytest.mark.parametrize("name", ["generator.onnx", "scorer.onnx", "step.onnx", "tokenizer.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert f"{name}: no such file" in refused(copy)


def test_a_description_that_is_broken_is_refused(copy: Path) -> None:
    (copy / "bundle.json").write_text('{"format": 1')
    assert "bundle.json: not a JSON file" in refused(copy)
    (copy / "bundle.json").write_text("[]")
    assert "not a bundle's description" in refused(copy)
    (copy / "bundle.json").write_text('{"format": 3}')
    assert "'variant' is missing" in refused(copy)


def test_an_unknown_format_is_refused(copy: Path) -> None:
    describe(copy, format=4)
    assert "format 4, and this recurlm reads 3: install the recurlm that wrote it" in refused(copy)


def test_a_bundle_of_an_older_format_is_to_be_exported_again(copy: Path) -> None:
    description = json.loads((copy / "bundle.json").read_text())
    for new, old in {"objective": "causal", "state_spec": "state", "suppressed_tokens": "suppressed"}.items():
        description[old] = description.pop(new)
    (copy / "bundle.json").write_text(json.dumps(description | {"format": 2, "causal": True}))
    assert "bundle.json: corrupted" in refused(copy)
    del description["seal"]
    write_sealed_json(copy / "bundle.json", description | {"format": 2, "causal": True})
    assert refused(copy).endswith("bundle.json: format 2, and this recurlm reads 3: export it again (dvc repro)")


def test_an_unknown_objective_is_refused(copy: Path) -> None:
    describe(copy, objective="casual")
    assert "unknown objective 'casual': did you mean 'causal'?" in refused(copy)


def test_an_unknown_tokenizer_is_refused(copy: Path) -> None:
    describe(copy, tokenizer_kind="bytes")
    assert "unknown tokenizer_kind 'bytes'" in refused(copy)


def test_a_folder_without_a_bundle_names_those_beside_and_inside(copy: Path) -> None:
    assert "no bundle here (it would hold a bundle.json): did you mean 'lstm'?" in refused(copy.parent / "lstn")
    assert "a folder of some: name one of lstm" in refused(copy.parent)
    assert "no bundle here" in refused(copy / "nothing" / "at" / "all")


def test_a_graph_that_is_another_than_described_is_refused(copy: Path) -> None:
    (copy / "generator.onnx").write_bytes((copy / "scorer.onnx").read_bytes())
    describe(copy)
    assert "not the graph that the JSON file beside it describes" in refused(copy)


def test_a_state_of_another_size_is_refused(copy: Path) -> None:
    description = json.loads((copy / "bundle.json").read_text())
    describe(copy, state_spec=description["state_spec"] | {"layer0.h": [13]})
    assert "not the graph that the JSON file beside it describes" in refused(copy)


def test_a_graph_that_this_onnxruntime_is_too_old_for_is_refused(copy: Path) -> None:
    model = onnx.load(copy / "generator.onnx")
    model.ir_version = 999
    (copy / "generator.onnx").write_bytes(model.SerializeToString())
    describe(copy)
    assert "generator.onnx: onnxruntime " in refused(copy)


def test_a_graph_that_is_no_onnx_is_refused(copy: Path) -> None:
    (copy / "generator.onnx").write_bytes(b"no model")
    describe(copy)
    assert "generator.onnx: not an ONNX file" in refused(copy)


def test_a_bundle_without_a_needed_graph_is_refused(copy: Path) -> None:
    description = json.loads((copy / "bundle.json").read_text())
    del description["files"]["scorer.onnx"], description["seal"]
    write_sealed_json(copy / "bundle.json", description)
    Generator.from_bundle(copy)
    with pytest.raises(InputError, match=r"the bundle has no scorer\.onnx"):
        Scorer.from_bundle(copy)


def test_no_threads_and_more_than_four_for_each_processor_are_refused(
    bundles: TinyBundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundles("lstm"))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for threads in (-1, 0, 9, 2000):
        with pytest.raises(InputError, match=f"threads is {threads}: 1 to 8, 4 for each processor"):
            Generator(bundle, threads)
    assert Generator(bundle, 8).generate("king", 1, seed=1)


def test_threads_change_no_token(bundles: TinyBundles) -> None:
    texts = [Generator.from_bundle(bundles("lstm"), threads).generate("king", 100, seed=1) for threads in (1, 2)]
    assert texts[0] == texts[1]


def test_a_bundle_works_wherever_it_is_copied(bundles: TinyBundles, copy: Path) -> None:
    here, there = Generator.from_bundle(bundles("lstm")), Generator.from_bundle(copy)
    assert here.generate("king", 30, seed=1) == there.generate("king", 30, seed=1)


def test_an_opened_bundle_says_what_it_is(bundles: TinyBundles) -> None:
    bundle = Bundle.open(bundles("lstm"))
    assert (bundle.variant, bundle.precision, bundle.objective) == ("lstm", "fp32", "causal")
    assert bundle.vocabulary.kind == "bpe"
    assert bundle.tasks == ("generate", "score")
    assert bundle.state_spec == {"layer0.h": (12,), "layer0.c": (12,), "layer1.h": (12,), "layer1.c": (12,)}
    assert Filler.from_bundle(str(bundles("bilstm"))).bundle.objective == "cloze"


@pytest.mark.parametrize("variant", ["lstm", "bilstm"])
def test_a_bundle_names_its_making_and_its_sampling_defaults(bundles: TinyBundles, variant: str) -> None:
    description = json.loads((bundles(variant) / "bundle.json").read_text())
    made = description["recurlm"]
    assert made["version"] == recurlm.__version__
    code = ["src", "pipelines", "params.yaml", "dvc.yaml"]
    log = ["git", "log", "-1", "--format=%H", "--", *code]
    assert made["commit"] == subprocess.run(log, cwd=CHECKOUT, capture_output=True, text=True).stdout.strip()
    assert isinstance(made["modified"], bool)
    defaults = description["sampling_defaults"]
    assert {"temperature", "top_k", "top_p"} <= defaults.keys()
    if variant == "lstm":
        generator = Generator.from_bundle(bundles(variant))
        assert generator.generate("king", 30, seed=1, **defaults) == generator.generate("king", 30, seed=1)
    else:
        assert Filler.from_bundle(bundles(variant)).fill("to ___ or", **defaults)


def test_outside_of_git_a_bundle_names_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert made_by() == {"version": recurlm.__version__, "commit": None, "modified": None}
