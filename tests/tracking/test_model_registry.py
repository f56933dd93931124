"""The model registry: a version for each verified bundle, aliases that move only to a better one, models for text."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow_project import QUIET, aliases, finish, messages, runs, serving, start, track, versions
from tiny_bundles import TinyBundles

from recurlm.runtime import Generator
from recurlm.storage import read_json, read_sealed_json, sha256_of, write_json, write_sealed_json
from recurlm.tracking import store
from recurlm.tracking.registry import Candidate, moves

FIRST = {"recurlm": [("lstm", "fp32")]} | {f"recurlm-{name}": [(name, "fp32")] for name in ("rnn", "lstm", "bilstm")}


def retrain(root: Path, name: str, bits: float) -> None:
    """Other weights, and a bundle of them, of so many validation bits per byte."""
    metrics = read_json(root / "data/metrics" / f"{name}.json")
    metrics["validation"]["bits_per_byte"] = bits
    write_json(root / "data/metrics" / f"{name}.json", metrics)
    bundle = root / "data/onnx" / name / "fp32/bundle.json"
    description = {key: value for key, value in read_sealed_json(bundle).items() if key != "seal"}
    write_sealed_json(bundle, description | {"model_sha256": f"weights of {bits}"})


def test_every_verified_bundle_is_a_version_and_the_best_left_to_right_one_also_of_the_project(logged: Path) -> None:
    assert versions(logged) == FIRST
    assert all(aliases(logged, name) == {"champion": "1"} for name in FIRST)


def test_a_version_has_its_verification_and_leads_to_its_run_and_back_from_its_bundle(logged: Path) -> None:
    bundle = logged / "data/onnx/lstm/fp32/bundle.json"
    with store.find(logged).connected() as client:
        version = client.get_model_version_by_alias("recurlm", "champion")
        (by_bundle,) = client.search_model_versions(
            f"name = 'recurlm-lstm' and tags.`recurlm.bundle` = '{sha256_of(bundle)}'"
        )
        model = client.get_logged_model(version.source.removeprefix("models:/"))
        described = client.get_registered_model("recurlm").description
    expected = {"precision": "fp32", "bundle_bytes": "12345678", "verification_tokens_identical": "5000"}
    assert expected.items() <= model.tags.items()
    assert version.tags["validation_bits_per_byte"] == "1.875"
    assert version.tags["verified"] == "true"
    assert len(version.tags) <= 6
    assert version.description == (
        "lstm in fp32, 12.3 MB: 1.875 bits per byte on the validation split, verified, perplexity +0.00% over PyTorch"
    )
    assert described == f"Champion: version 1, {version.description}."
    assert version.run_id == by_bundle.run_id == runs(logged)["lstm"].info.run_id
    assert version.source == by_bundle.source, "one copy of the files"


def test_a_store_that_was_deleted_gets_the_same_versions_and_aliases(root: Path) -> None:
    track(root)
    retrain(root, "rnn", 1.5)
    track(root)
    (root / ".mlflow").rename(root / "deleted")
    finish(start(root))
    with closing(sqlite3.connect(root / ".mlflow/mlflow.db")) as database:
        names = database.execute("select name, version from model_versions order by name").fetchall()
        held = database.execute("select name, alias, version from registered_model_aliases order by name").fetchall()
    assert names == [(name, 1) for name in sorted(FIRST)]
    assert held == [(name, "champion", 1) for name in sorted(FIRST)]
    assert finish(start(root)) == []


def test_the_alias_moves_to_a_better_model_and_not_to_a_worse_one(root: Path) -> None:
    track(root)
    retrain(root, "rnn", 1.5)
    assert "recurlm: champion is version 2" in messages(root)
    assert aliases(root, "recurlm") == {"champion": "2", "challenger": "1"}
    assert aliases(root, "recurlm-rnn") == {"champion": "2", "challenger": "1"}
    retrain(root, "rnn", 1.75)  # still the best here, and worse than the champion
    track(root)
    assert aliases(root, "recurlm") == {"champion": "2", "challenger": "3"}
    with store.find(root).connected() as client:
        client.set_registered_model_alias("recurlm", "champion", "1")  # a person knows better
    write_json(root / "data/corpus/manifest.json", read_json(root / "data/corpus/manifest.json") | {"licence": "other"})
    messages(root)
    assert aliases(root, "recurlm")["champion"] == "1"


def test_versions_of_the_checkout_that_this_is_a_copy_of_stay_and_aliases_lead_to_own_files(
    logged: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(logged, copy)
    messages(copy)
    assert versions(copy) == {name: each * 2 for name, each in FIRST.items()}
    with store.find(copy).connected() as client:
        for name in FIRST:
            assert aliases(copy, name) == {"champion": "2"}
            place = client.get_model_version_download_uri(name, "2").removeprefix("file://")
            assert Path(place).is_relative_to(copy)
            assert not Path(client.get_model_version_download_uri(name, "1").removeprefix("file://")).is_relative_to(
                copy
            )
    assert messages(copy) == []


def test_a_version_that_was_deleted_comes_back(root: Path) -> None:
    track(root)
    with store.find(root).connected() as client:
        client.delete_model_version("recurlm-rnn", "1")
    assert messages(root) == ["registered recurlm-rnn 2 (rnn fp32)", "recurlm-rnn: champion is version 2"]
    assert versions(root)["recurlm-rnn"] == [("rnn", "fp32")]


candidates = st.builds(
    Candidate,
    version=st.uuids().map(str),
    model=st.sampled_from("abc"),
    text=st.sampled_from(["one text", "another"]),
    bits=st.floats(1, 3) | st.just(float("nan")),
    verified=st.booleans(),
)


@given(st.lists(candidates, max_size=12))
def test_an_alias_never_moves_to_what_is_unverified_worse_or_of_another_text(history: list[Candidate]) -> None:
    held: dict[str, Candidate] = {}
    for new in history:
        moved = moves(new, held.get("champion"), held.get("challenger"))
        for alias, candidate in moved.items():
            assert candidate.verified
            if alias in held and not (alias == "challenger" and candidate == held["champion"]):
                assert candidate.text == held[alias].text
                assert candidate.bits < held[alias].bits
        held |= moved
    of_text = [each for each in history if each.verified and held and each.text == held["champion"].text]
    assert not held or held["champion"].bits == min(each.bits for each in of_text if each.bits == each.bits)


@pytest.fixture
def real(root: Path, bundles: TinyBundles) -> Path:
    """A project whose lstm and bilstm have bundles that run."""
    for name in ("lstm", "bilstm"):
        folder = root / "data/onnx" / name / "fp32"
        fabricated = read_sealed_json(folder / "bundle.json")
        shutil.rmtree(folder)
        shutil.copytree(bundles(name), folder)
        description = {key: value for key, value in read_sealed_json(folder / "bundle.json").items() if key != "seal"}
        write_sealed_json(folder / "bundle.json", description | {"verification": fabricated["verification"]})
    track(root)
    return root


ASK = """
import json, sys
import mlflow
import recurlm
model = mlflow.pyfunc.load_model(sys.argv[1])
import recurlm.runtime
params = {"max_new_tokens": 40, "temperature": 1.1, "top_k": 0, "seed": 3}
answer = model.predict(["to be"], params=params)
stopped = model.predict(["to be"], params=params | {"stop": ["no such", answer[0][20:23]]})
print(json.dumps([answer, stopped, recurlm.runtime.__file__, "torch" in sys.modules]))
"""


def test_a_served_text_is_that_of_recurlm_generate_from_the_models_own_code(real: Path, tmp_path: Path) -> None:
    bundle = real / "data/onnx/lstm/fp32"
    with store.find(real).connected() as client:
        folder = client.get_model_version_download_uri("recurlm-lstm", "1").removeprefix("file://")
    shutil.copytree(folder, tmp_path / "model")
    ask = ASK.replace("import recurlm\n", "", 1)
    environment = {"PATH": "/usr/bin", "HOME": str(tmp_path), **QUIET}
    result = subprocess.run(
        [sys.executable, "-c", ask, str(tmp_path / "model")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    answer, stopped, runtime, torch = json.loads(result.stdout)
    assert stopped == [answer[0][: answer[0].index(answer[0][20:23])]]
    options = ["--max-new-tokens", "40", "--temperature", "1.1", "--top-k", "0", "--seed", "3"]
    command = [sys.executable, "-m", "recurlm.cli", "generate", "--bundle", str(bundle), "--prompt", "to be", *options]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"to be{answer[0]}".rstrip("\n") == printed.rstrip("\n")
    assert Path(runtime).is_relative_to(tmp_path / "model/code/recurlm")
    assert not torch
    assert not [file for file in (tmp_path / "model").rglob("*") if file.suffix in (".pkl", ".pickle")]


def test_the_flavors_are_text_and_the_raw_graph(real: Path) -> None:
    with store.find(real).connected():
        text = mlflow.pyfunc.load_model("models:/recurlm-bilstm@champion")
        graph = mlflow.onnx.load_model("models:/recurlm@champion")
    assert graph == onnx.load(real / "data/onnx/lstm/fp32/generator.onnx")
    (filled,) = text.predict("to ___ or")
    assert filled.startswith("to ")
    assert filled.endswith(" or")
    params = text.metadata.signature.params.to_dict()
    assert [each["name"] for each in params] == ["temperature", "top_k", "top_p", "seed", "max_mask_tokens"]


def test_a_server_of_the_champion_answers_and_refuses_in_one_line(real: Path, tmp_path: Path) -> None:
    where = ["--host", "127.0.0.1", "--port", "{port}", "--env-manager", "local"]
    place = store.find(real).uri
    what = ["models", "serve", "--model-uri", "models:/recurlm@champion"]
    with serving(tmp_path, *what, *where, ready="/ping", MLFLOW_TRACKING_URI=place) as address:
        asked = {"inputs": ["to be"], "params": {"max_new_tokens": 20, "seed": 1}}
        assert ask(address, asked) == ("200", {"predictions": [one_text(real)]})
        status, refused = ask(address, {"inputs": ["to be"], "params": {"temperature": -1.0}})
        assert status == "400"
        assert "temperature is -1.0: 0 (the likeliest token) to 100" in refused["message"]


def ask(address: str, body: object) -> tuple[str, dict[str, object]]:
    """Status and answer, by the line that the README names."""
    command = ["curl", "--silent", "--write-out", "\n%{http_code}", f"{address}/invocations"]
    kind = ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
    answer, status = subprocess.run([*command, *kind], capture_output=True, text=True, check=True).stdout.rsplit(
        "\n", 1
    )
    return status, json.loads(answer)


def one_text(root: Path) -> str:
    generator = Generator.from_bundle(root / "data/onnx/lstm/fp32")
    return generator.generate("to be", max_new_tokens=20, seed=1)
