"""The Hub over HTTP: a real server on 127.0.0.1, the real stage in a process of its own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from configs import fetch_config
from conftest import Hub, parquet

from recurlm.corpus import hub as hub_source
from recurlm.corpus.hub import PRESETS, source
from recurlm.errors import InputError

COMMIT = "c0ffee" + "0" * 34
OTHER = "decaf" + "0" * 35

CARD = b"""---
license:
- cc-by-sa-3.0
- gfdl
configs:
- config_name: one
  data_files:
  - split: train
    path: one/train-*
  - split: validation
    path: one/validation-*
  - split: test
    path: one/test-*
- config_name: two
  data_files:
  - split: train
    path: two/train-*
---
"""

SPLITS = {
    "train": ["first\r\n", "", "second \u2028 line\n", "third\0"],
    "validation": ["fourth\r", "fifth\x0c"],
    "test": ["\ufeffsixth", "seventh"],
}


def dataset(splits: dict[str, list[str]], folder: str, card: bytes = b"---\nlicense: mit\n---\n") -> dict[str, bytes]:
    files = {f"{folder}/{split}-00000-of-00001.parquet": parquet(texts) for split, texts in splits.items()}
    return {"README.md": card, **files}


def section(**lines: Any) -> dict[str, Any]:
    return {"source": "hub", "hub": {"preset": None, "id": "own/tiny", "revision": COMMIT} | lines}


def corpus(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data/corpus").iterdir()}


def text(folder: Path, split: str) -> str:
    return (folder / f"data/corpus/{split}.txt").read_bytes().decode("utf-8")


def test_every_byte_comes_over_and_a_second_fetch_needs_no_hub(tmp_path: Path, hub: Hub, fetch: Callable) -> None:
    hub.add("own/tiny", COMMIT, dataset(SPLITS, "one", CARD) | dataset({"train": ["zwei"]}, "two", CARD))
    result = fetch(section(config="one"), hub.environment)
    assert result.returncode == 0, result.stderr
    for split, texts in SPLITS.items():
        assert text(tmp_path, split) == "".join(texts)
    manifest = json.loads((tmp_path / "data/corpus/manifest.json").read_text(encoding="utf-8"))
    assert {key: manifest[key] for key in ("source", "name", "revision", "licence")} == {
        "source": "hub",
        "name": "own/tiny one",
        "revision": COMMIT,
        "licence": "cc-by-sa-3.0, gfdl",
    }
    assert [manifest["splits"][split]["documents"] for split in SPLITS] == [3, 2, 2]  # a row without text is none
    assert not any("/two/" in request or "telemetry" in request for request in hub.requests)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache", "data", "params.yaml"]

    first = corpus(tmp_path)
    hub.shut_down()
    result = fetch(section(config="one"), hub.environment)
    assert result.returncode == 0, result.stderr
    assert corpus(tmp_path) == first


def test_a_commit_in_the_cache_never_stands_in_for_another_one(
    tmp_path: Path, hub: Hub, fetch: Callable, refuses: Callable
) -> None:
    hub.add("own/tiny", COMMIT, dataset(SPLITS, "data"))
    assert fetch(section(), hub.environment).returncode == 0
    (tmp_path / "data/corpus").rename(tmp_path / "aside")
    hub.shut_down()
    refuses(fetch(section(revision=OTHER), hub.environment), "out of reach")
    assert not (tmp_path / "data/corpus").exists()


def test_wikitext_is_one_document_a_split(tmp_path: Path, hub: Hub, fetch: Callable) -> None:
    preset = PRESETS["wikitext-2"]
    card = CARD.replace(b"config_name: one", b"config_name: wikitext-2-raw-v1").replace(b"one/", b"wikitext-2-raw-v1/")
    hub.add(preset["id"], preset["revision"], dataset(SPLITS, "wikitext-2-raw-v1", card))
    result = fetch({"source": "hub", "hub": {"preset": "wikitext-2"}}, hub.environment)
    assert result.returncode == 0, result.stderr
    for split, texts in SPLITS.items():
        assert text(tmp_path, split) == "".join(texts)
    manifest = json.loads((tmp_path / "data/corpus/manifest.json").read_text(encoding="utf-8"))
    assert [manifest["splits"][split]["documents"] for split in SPLITS] == [1, 1, 1]


@pytest.mark.parametrize("document", ["row", "split"])
def test_a_stream_gives_the_same_bytes_and_keeps_nothing(
    tmp_path: Path, hub: Hub, fetch: Callable, document: str
) -> None:
    hub.add("own/tiny", COMMIT, dataset(SPLITS, "data"))
    assert fetch(section(document=document), hub.environment).returncode == 0
    prepared = corpus(tmp_path)
    shutil.rmtree(tmp_path / ".cache")
    result = fetch(section(document=document, streaming=True), hub.environment)
    assert result.returncode == 0, result.stderr
    assert corpus(tmp_path) == prepared
    assert not [path for path in (tmp_path / ".cache").rglob("*") if path.suffix in (".arrow", ".parquet")]
    read = [request for request in hub.requests if "/resolve/" in request]
    assert all(COMMIT in request for request in read)
    hub.deaf = True
    assert "is out of reach" in fetch(section(document=document, streaming=True), hub.environment).stderr


def test_tinystories_has_its_validation_split_halved(tmp_path: Path, hub: Hub, fetch: Callable) -> None:
    preset = PRESETS["tinystories"]
    stories = {"train": ["a", "b", "c"], "validation": ["d", "e", "f", "g", "h"]}
    hub.add(preset["id"], preset["revision"], dataset(stories, "data"))
    result = fetch({"source": "hub", "hub": {"preset": "tinystories"}}, hub.environment)
    assert result.returncode == 0, result.stderr
    assert [text(tmp_path, split) for split in SPLITS] == ["abc", "def", "gh"]


def test_a_dataset_with_nothing_held_out_gives_the_last_tenth_of_train(
    tmp_path: Path, hub: Hub, fetch: Callable
) -> None:
    hub.add("own/tiny", COMMIT, dataset({"train": list("abcdefghijklmnopqrst")}, "data"))
    result = fetch(section(), hub.environment)
    assert result.returncode == 0, result.stderr
    assert [text(tmp_path, split) for split in SPLITS] == ["abcdefghijklmnopqr", "s", "t"]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ({"revision": OTHER}, f"own/tiny has no commit {OTHER}"),
        ({"id": "own/tinny"}, "no dataset own/tinny"),
        ({"config": "onne"}, "did you mean 'one'?"),
        ({"config": "one", "column": "txt"}, "did you mean 'text'?"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    tmp_path: Path, hub: Hub, fetch: Callable, refuses: Callable, lines: dict[str, Any], complaint: str
) -> None:
    hub.add("own/tiny", COMMIT, dataset(SPLITS, "one", CARD) | dataset({"train": ["zwei"]}, "two", CARD))
    refuses(fetch(section(**lines), hub.environment), complaint)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ({"preset": "wikitext2", "id": None, "revision": None}, "did you mean 'wikitext-2'?"),
        ({"preset": "wikitext-2"}, "set one of them to null"),
        ({"id": "text"}, "write it as owner/name"),
    ],
)
def test_a_wrong_line_is_named_before_the_hub_is_asked(lines: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=re.escape(complaint)):
        source(fetch_config(**section(**lines)))


def test_a_hub_out_of_reach_is_told_at_once(tmp_path: Path, hub: Hub, fetch: Callable, refuses: Callable) -> None:
    """With one question: `datasets` asks again and again, and waits longer each time."""
    hub.deaf = True
    refuses(fetch(section(), hub.environment), "is out of reach")
    assert len(hub.requests) == 1
    assert not (tmp_path / "data").exists()


def test_a_script_is_not_run(tmp_path: Path, hub: Hub, fetch: Callable, refuses: Callable) -> None:
    hub.add("own/tiny", COMMIT, {"README.md": b"", "tiny.py": b"open('ran', 'w')\n"})
    refuses(fetch(section(), hub.environment), "no code of others is run")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_parquet_file_is_told(tmp_path: Path, hub: Hub, fetch: Callable, refuses: Callable) -> None:
    hub.add("own/tiny", COMMIT, {"README.md": b"", "data/train-00000-of-00001.parquet": b"PAR1 and no more"})
    refuses(fetch(section(), hub.environment), "own/tiny cannot be read")
    assert not (tmp_path / "data").exists()


def test_a_transfer_that_breaks_off_leaves_nothing_and_the_next_fetch_is_whole(
    tmp_path: Path, hub: Hub, fetch: Callable, refuses: Callable
) -> None:
    hub.add("own/tiny", COMMIT, dataset(SPLITS, "data"))
    hub.broken.add("data/test-00000-of-00001.parquet")
    refuses(fetch(section(), hub.environment), "is out of reach")
    assert not (tmp_path / "data").exists()
    hub.broken.clear()
    assert fetch(section(), hub.environment).returncode == 0
    assert text(tmp_path, "test") == "".join(SPLITS["test"])


def test_a_bad_row_is_named_with_the_file_that_it_is_in(tmp_path: Path) -> None:
    table, parts = pa.table({"text": ["a", "b", None]}), []
    for number in range(2):
        parts.append(str(tmp_path / f"x-train-0000{number}-of-00002.arrow"))
        with pa.OSFile(parts[-1], "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table.slice(number, 2))
    settings = fetch_config(source="hub", hub={"preset": None, "id": "a/b", "revision": "0" * 40}).hub
    assert list(hub_source._texts(parts[:1], settings, "train")) == ["a", "b"]
    with pytest.raises(InputError) as caught:
        list(hub_source._texts(parts, settings, "train"))
    complaint = "train split: row 2 of x-train-00001-of-00002.arrow: 'text' holds nothing, not text"
    assert str(caught.value) == f"fetch.hub: {complaint}"
