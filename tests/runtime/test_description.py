"""Promises of a sealed but malformed bundle: one line each, before anything of it is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from tiny_bundles import TinyBundles

from recurlm.errors import InputError
from recurlm.runtime import Bundle, Generator, Scorer, session
from recurlm.storage import sha256_of, write_sealed_json

OUTSIDE = {"sha256": "0" * 64}
SPECIAL = {"bos": 0, "mask": 1, "unk": None, "eol": None}


@pytest.fixture
def copy(bundles: TinyBundles, tmp_path: Path) -> Path:
    """A bundle to harm."""
    return Path(shutil.copytree(bundles("lstm"), tmp_path / "lstm"))


def reseal(folder: Path, **changes: Any) -> None:
    description = json.loads((folder / "bundle.json").read_text()) | changes
    write_sealed_json(folder / "bundle.json", {key: part for key, part in description.items() if key != "seal"})


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        Bundle.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "/etc/passwd", "a/b.onnx", "..", "", ".hidden", "C:\\x", "a\n", "a\0b", "bundle.json"],
)
def test_only_plain_names_of_files_are_read(copy: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = json.loads((copy / "bundle.json").read_text())["files"]
    reseal(copy, files=files | {name: OUTSIDE})
    monkeypatch.setattr("recurlm.runtime.bundle.check_sha256", None)  # nothing is opened before the check
    assert refused(copy).endswith(
        "bundle.json: 'files' is missing or is not what it should be: download or export it again"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": []},
        {"files": {"tokenizer.json": {}}},
        {"files": {"tokenizer.json": None}},
        {"files": {"tokenizer.json": {"sha256": "0" * 63}}},
        {"files": {"tokenizer.json": OUTSIDE} | {f"graph{number}.onnx": OUTSIDE for number in range(64)}},
        {"special": {}},
        {"special": {"bos": 0}},
        {"special": SPECIAL | {"bos": None}},
        {"special": SPECIAL | {"bos": 300}},
        {"special": SPECIAL | {"bos": -1}},
        {"special": SPECIAL | {"bos": True}},
        {"special": SPECIAL | {"bos": 0.0}},
        {"special": SPECIAL | {"bos": 1}},
        {"special": SPECIAL | {"more": 2}},
        {"vocab_size": None},
        {"vocab_size": 1 << 40},
        {"variant": "../lstm"},
        {"variant": ["lstm"]},
        {"precision": 8},
        {"state_spec": {"layer0.h": None}},
        {"state_spec": {"layer0.h": [None]}},
        {"state_spec": {"layer0.h": [12.0]}},
        {"state_spec": {"layer0.h": [0]}},
        {"state_spec": {"layer0.h": [1 << 20, 1 << 20]}},
        {"state_spec": {"layer0.h": [1] * 9}},
        {"state_spec": {"layer 0": [12]}},
    ],
    ids=str,
)
def test_what_the_schema_forbids_is_named(copy: Path, changes: dict[str, Any]) -> None:
    reseal(copy, **changes)
    assert f"bundle.json: '{next(iter(changes))}' is missing or is not what it should be: download" in refused(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 3, "metrics": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"format": 3, "seal": "", "metrics": ' + "[" * 500 + "]" * 500 + "}", "bundle.json: "),
        ('{"format": 3, "seal": "", "metrics": NaN}', "not a JSON file of ours"),
        ('{"format": 3, "seal": "", "metrics": 1e999}', "not a JSON file of ours"),
        ('{"format": 3, "seal": "", "variant": "\\ud800"}', "not a JSON file of ours"),
        ('{"format": ' + "9" * 5000 + "}", "not a JSON file"),
        ('{"format": [3]}', "format [3], and this recurlm reads 3"),
        ('{"format": true}', "format True, and this recurlm reads 3"),
        ('"' + "a" * (4 << 20) + '"', "4.2 MB, and at most 4.2 are read: download or export it again"),
    ],
    ids=["deep", "deep sealed", "NaN", "infinity", "surrogate", "digits", "list", "bool", "long"],
)
def test_a_description_that_is_no_json_of_ours_is_refused(copy: Path, text: str, message: str) -> None:
    (copy / "bundle.json").write_text(text)
    assert message in refused(copy)


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_other_line_ends_are_noticed(copy: Path, end: bytes) -> None:
    content = (copy / "bundle.json").read_bytes()
    (copy / "bundle.json").write_bytes(content.replace(b"\n", end, 1))
    assert "bundle.json: corrupted (its content is not what its seal says)" in refused(copy)


def with_tokenizer(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    files = json.loads((folder / "bundle.json").read_text())["files"]
    reseal(folder, files=files | {"tokenizer.json": {"sha256": sha256_of(folder / "tokenizer.json")}})


@pytest.mark.parametrize("content", ["{}", "", "[" * 10_000, '{"model": {"type": "BPE"}}'], ids=str)
def test_a_tokenizer_that_is_none_is_refused(copy: Path, content: str) -> None:
    with_tokenizer(copy, content[:20_000])
    assert "tokenizer.json: not a tokenizer (" in refused(copy)


def test_a_tokenizer_that_makes_its_reader_panic_is_refused(copy: Path) -> None:
    parts = json.loads((copy / "tokenizer.json").read_text())
    parts["model"]["continuing_subword_prefix"] = "#" * 40  # longer than a token
    with_tokenizer(copy, json.dumps(parts))
    assert "tokenizer.json: not a tokenizer (" in refused(copy)


PADDING = {"direction": "Right", "pad_id": 0, "pad_token": "<bos>", "pad_type_id": 0, "pad_to_multiple_of": None}
STEPS: dict[str, dict[str, Any]] = {
    "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    "padding": PADDING | {"strategy": {"Fixed": 7}},
    "added_tokens": {
        "id": 0,
        "content": "<bos>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    },
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
}


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_a_tokenizer_of_another_step_is_refused(bundles: TinyBundles, tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(bundles("lstm", kind), tmp_path / kind))
    usual = json.loads((folder / "tokenizer.json").read_text())
    for name, step in STEPS.items():
        with_tokenizer(folder, json.dumps(usual | {name: [step] if name == "added_tokens" else step}))
        assert f"tokenizer.json: its {name} is not that of the kind '{kind}'" in refused(folder)


def test_a_word_tokenizer_of_lower_case_is_one_of_ours(bundles: TinyBundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("lstm", "word"), tmp_path / "word"))
    parts = json.loads((folder / "tokenizer.json").read_text())
    parts["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})
    with_tokenizer(folder, json.dumps(parts))
    assert Bundle.open(folder).vocabulary.ids("KING", "the text") == Bundle.open(folder).vocabulary.ids("king", "it")
    parts["normalizer"]["normalizers"].insert(0, {"type": "NFC"})
    with_tokenizer(folder, json.dumps(parts))
    assert "tokenizer.json: its normalizer is not that of the kind 'word'" in refused(folder)


def test_a_tokenizer_of_another_kind_is_refused(copy: Path, bundles: TinyBundles) -> None:
    reseal(copy, tokenizer_kind="word")
    assert "tokenizer.json: not a tokenizer of the kind 'word', as bundle.json says" in refused(copy)
    word = Path(shutil.copytree(bundles("lstm", "word"), copy.parent / "word"))
    reseal(word, tokenizer_kind="char")
    assert "not a tokenizer of the kind 'char'" in refused(word)


def test_a_tokenizer_of_other_tokens_is_refused(copy: Path) -> None:
    reseal(copy, vocab_size=299)
    assert "tokenizer.json: its 300 tokens are not the 299 that bundle.json says" in refused(copy)
    reseal(copy, vocab_size=300, special=SPECIAL | {"mask": 2})
    assert "tokenizer.json: its special tokens are not those that bundle.json says" in refused(copy)
    reseal(copy, special=SPECIAL)
    parts = json.loads((copy / "tokenizer.json").read_text())
    parts["model"]["vocab"] = {
        f"{token}一" if id == 299 else token: id for token, id in parts["model"]["vocab"].items()
    }
    parts["model"]["merges"] = []
    with_tokenizer(copy, json.dumps(parts))
    assert "its tokens hold '一', which stands for no byte" in refused(copy)


def test_a_word_tokenizer_without_unk_is_refused(bundles: TinyBundles, tmp_path: Path) -> None:
    word = Path(shutil.copytree(bundles("lstm", "word"), tmp_path / "word"))
    parts = json.loads((word / "tokenizer.json").read_text())
    parts["model"]["unk_token"] = "<nothing>"
    with_tokenizer(word, json.dumps(parts))
    assert "tokenizer.json: it has no <unk>" in refused(word)


def test_a_tokenizer_of_500_mb_is_refused_before_it_is_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (copy / "tokenizer.json").open("r+b") as file:
        file.truncate(500_000_000)  # a hole: it takes no space
    monkeypatch.setattr("recurlm.runtime.bundle.check_sha256", None)
    assert "tokenizer.json: 500.0 MB, and at most 67.1 are read: download or export it again" in refused(copy)


def test_a_graph_of_another_vocabulary_is_refused(copy: Path, bundles: TinyBundles) -> None:
    bundle = Bundle.open(copy)
    smaller = Path(shutil.copytree(bundles("lstm"), copy.parent / "smaller"))
    parts = json.loads((smaller / "tokenizer.json").read_text())
    parts["model"] |= {"vocab": {token: id for token, id in parts["model"]["vocab"].items() if id < 299}, "merges": []}
    with_tokenizer(smaller, json.dumps(parts))
    reseal(smaller, vocab_size=299)
    assert bundle.session("step.onnx", {"token"}, None)
    with pytest.raises(InputError, match=r"step\.onnx: not the graph that the JSON file beside it describes"):
        Bundle.open(smaller).session("step.onnx", {"token"}, None)


def rewrite_graph(folder: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(folder / name)
    change(model)
    (folder / name).write_bytes(model.SerializeToString())
    files = json.loads((folder / "bundle.json").read_text())["files"]
    reseal(folder, files=files | {name: {"sha256": sha256_of(folder / name)}})


@pytest.mark.parametrize("inner", [False, True])
def test_weights_in_another_file_are_refused(copy: Path, inner: bool) -> None:
    (copy / "outside.bin").write_bytes(bytes(4))
    outside = helper.make_tensor("outside", onnx.TensorProto.FLOAT, [1], bytes(4), raw=True)
    outside.ClearField("raw_data")
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="outside.bin")

    def plant(model: onnx.ModelProto) -> None:
        graph = model.graph
        if inner:
            graph = next(node.attribute[0].g for node in graph.node if node.op_type == "Loop")
        graph.initializer.append(outside)

    rewrite_graph(copy, "generator.onnx", plant)
    with pytest.raises(
        InputError, match=r"generator\.onnx: its weights lie in another file, which recurlm does not read"
    ):
        Generator.from_bundle(copy)


def test_a_loop_of_huge_trip_count_is_stopped(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    go_on = helper.make_tensor_value_info("go_on", onnx.TensorProto.BOOL, [])
    passed = helper.make_tensor_value_info("passed", onnx.TensorProto.FLOAT, None)
    trip = helper.make_tensor_value_info("trip", onnx.TensorProto.INT64, [])
    same = [helper.make_node("Identity", [name], [f"{name}.next"]) for name in ("go_on", "passed")]
    results = [helper.make_tensor_value_info("go_on.next", onnx.TensorProto.BOOL, [])]
    results.append(helper.make_tensor_value_info("passed.next", onnx.TensorProto.FLOAT, None))
    body = helper.make_graph(same, "body", [trip, go_on, passed], results)

    def plant(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(helper.make_tensor("huge", onnx.TensorProto.INT64, [], [2**62]))
        last = next(node for node in model.graph.node if "log_prob" in node.output)
        last.CopyFrom(helper.make_node("Loop", ["huge", "", last.input[0]], ["log_prob"], body=body))

    rewrite_graph(copy, "scorer.onnx", plant)
    monkeypatch.setattr(session, "CALL_SECONDS", 0.2)
    monkeypatch.setattr(session, "TOKEN_SECONDS", 0.0)
    with pytest.raises(InputError, match=r"scorer\.onnx: no result after 0 s: the graph may have no end"):
        Scorer.from_bundle(copy).score("king")
    assert capfd.readouterr().err == ""
