"""A text of many shards: the same whatever the number of processes, whole after a kill, never a mixture."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from configs import CHECKOUT, fetch_config

from recurlm.config import Tokenize
from recurlm.corpus import files
from recurlm.corpus.reader import open_split
from recurlm.corpus.writer import write
from recurlm.errors import InputError
from recurlm.shards import Progress, each_once
from recurlm.storage import WORK, whole_folder
from recurlm.tokens import encode
from recurlm.tokens.encode import write_tokens
from recurlm.tokens.files import ShardedIds, open_tokens

SPLITS = ("train", "validation", "test")
LINES = [f"{number}: naïve 日本 words,  and a{' long' * (number % 7)} line\r\n" for number in range(4000)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SHARD", 40_000)
    monkeypatch.setattr("recurlm.corpus.writer.SHARD", 20_000)
    monkeypatch.setattr(files, "PIECE", 1000)


def save(folder: Path, kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"a{kind}"
    if ".parquet" in kind:
        pq.write_table(pa.table({"text": LINES}), path, row_group_size=100)
        return path
    lines = LINES if ".txt" in kind else [json.dumps({"text": line}) + "\n" for line in LINES]
    data = "".join(lines).encode("utf-8")
    path.write_bytes(gzip.compress(data, 1) if kind.endswith(".gz") else data)
    return path


def fetch(path: Path, folder: Path, processes: int = 1, **lines: Any) -> dict[str, Any]:
    section = {"path": str(path), "split": "documents", **lines}
    return write(files.source(fetch_config(source="files", files=section)), folder, processes=processes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def texts(folder: Path) -> dict[str, list[str]]:
    """The documents of each split."""
    splits = {split: open_split(folder, split) for split in SPLITS}
    return {name: ["".join(split.pieces(number)) for number in range(len(split))] for name, split in splits.items()}


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".parquet", ".txt.gz", ".jsonl.gz"])
def test_shards_hold_what_one_file_would(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, kind)
    manifest = fetch(path, tmp_path / "shards")
    assert len(manifest["splits"]["train"]["shards"]) > 3
    assert (tmp_path / "shards/train-00001.txt").is_file()
    monkeypatch.setattr(files, "SHARD", 1 << 26)
    monkeypatch.setattr("recurlm.corpus.writer.SHARD", 1 << 26)
    whole = fetch(path, tmp_path / "whole")
    assert texts(tmp_path / "shards") == texts(tmp_path / "whole")
    for split in SPLITS:
        shards = sorted((tmp_path / "shards").glob(f"{split}*.txt"), key=lambda path: path.name.replace(".", "!"))
        assert b"".join(map(Path.read_bytes, shards)) == (tmp_path / f"whole/{split}.txt").read_bytes()
        for count in ("documents", "characters", "bytes"):
            assert manifest["splits"][split][count] == whole["splits"][split][count]
        assert (
            contents(tmp_path / "shards")[f"{split}.offsets.npy"]
            == contents(tmp_path / "whole")[f"{split}.offsets.npy"]
        )


@pytest.mark.parametrize(("kind", "file"), [("char", ".txt"), ("bpe", ".txt"), ("word", ".txt"), ("bpe", ".txt.gz")])
def test_ids_of_shards_are_those_of_the_whole(
    kind: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, file)
    section = Tokenize(kind=kind, vocab_size=400, lowercase=False)
    for name, size in (("shards", 20_000), ("whole", 1 << 26)):
        monkeypatch.setattr(files, "SHARD", 2 * size)
        monkeypatch.setattr("recurlm.corpus.writer.SHARD", size)
        manifest = fetch(path, tmp_path / name, split="position")
        splits = {split: open_split(tmp_path / name, split) for split in SPLITS}
        write_tokens(tmp_path / f"{name}.tokens", section, splits, manifest)
    for split in SPLITS:
        shards, whole = (open_tokens(tmp_path / f"{name}.tokens", split) for name in ("shards", "whole"))
        np.testing.assert_array_equal(shards.ids, whole.ids)
        np.testing.assert_array_equal(shards.starts, whole.starts)
        for count in ("documents", "tokens", "words", "characters", "bytes", "unknown_tokens"):
            assert shards.counts[count] == whole.counts[count]
    assert isinstance(open_tokens(tmp_path / "shards.tokens", "train").ids, ShardedIds)


def test_two_processes_write_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recurlm.corpus.writer.SHARD", 1 << 26)  # as in the processes
    path = save(tmp_path, ".txt")
    section = Tokenize(kind="bpe", vocab_size=400, lowercase=False)
    for processes in (1, 2):
        corpus = tmp_path / f"corpus{processes}"
        manifest = fetch(path, corpus, processes, split="position")
        splits = {split: open_split(corpus, split) for split in SPLITS}
        write_tokens(tmp_path / f"tokens{processes}", section, splits, manifest, processes=processes)
    for stage in ("corpus", "tokens"):
        assert contents(tmp_path / f"{stage}1") == contents(tmp_path / f"{stage}2")


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_large_text as here
here.files.SHARD = 40_000
from recurlm import shards
from recurlm.corpus import writer
real = getattr(writer, sys.argv[3])
done = []
def slow(*task):
    if len(done) == 3:
        print("killed here", flush=True)
        import time; time.sleep(60)
    done.append(task)
    return real(*task)
setattr(writer, sys.argv[3], slow)
here.fetch(Path(sys.argv[2]) / "a.txt", Path(sys.argv[2]) / "corpus", split="position")
"""


@pytest.mark.parametrize("work", ["_read", "_deal"])
def test_a_killed_fetch_goes_on_shard_by_shard(work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recurlm.corpus.writer.SHARD", 1 << 26)
    path = save(tmp_path, ".txt")
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path), work]
    search = os.pathsep.join([str(CHECKOUT / "src"), str(CHECKOUT / "tests")])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": search})
    assert process.stdout is not None
    assert process.stdout.readline() == b"killed here\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "corpus").exists()

    from recurlm.corpus import writer

    calls = {"_read": 0, "_deal": 0}
    for name in calls:
        real = getattr(writer, name)

        def counted(*task: Any, real: Any = real, name: str = name) -> Any:
            calls[name] += 1
            return real(*task)

        monkeypatch.setattr(writer, name, counted)
    fetch(path, tmp_path / "corpus", split="position")
    again = dict(calls)
    fetch(path, tmp_path / "afresh", split="position")
    assert again[work] == calls[work] - again[work] - 3
    assert contents(tmp_path / "corpus") == contents(tmp_path / "afresh")


def test_a_stopped_tokenize_goes_on_shard_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = fetch(save(tmp_path, ".txt"), tmp_path / "corpus", split="position")
    splits = {split: open_split(tmp_path / "corpus", split) for split in SPLITS}
    section = Tokenize(kind="bpe", vocab_size=400, lowercase=False)
    calls: list[Path] = []

    def stopped(*task: Any) -> dict[str, Any]:
        calls.append(task[4])
        if len(calls) == 3:
            task[4].write_bytes(b"half a shard")
            raise KeyboardInterrupt
        return encoded(*task)

    encoded = encode._encode
    monkeypatch.setattr(encode, "_encode", stopped)
    for folder in ("tokens", "tokens", "afresh"):
        try:
            write_tokens(tmp_path / folder, section, splits, manifest)
        except KeyboardInterrupt:
            assert not (tmp_path / folder).exists()
    names = [path.name for path in calls]
    assert names[:4] == ["train.bin", "train-00001.bin", "train-00002.bin", "train-00002.bin"]
    assert len(names) == 1 + 2 * len(set(names))
    assert contents(tmp_path / "tokens") == contents(tmp_path / "afresh")


def dies_once(number: int, folder: Path, progress: Progress) -> dict[str, Any]:
    """Work of a process: the fourth task kills its process when those before are done, but not a second time."""
    with (folder / "begun").open("a") as begun:
        begun.write(f"{number}\n")
    if number == 3 and not (folder / "killed").exists():
        (folder / "killed").touch()
        while len(list((folder / f".whole.partial/{WORK}").glob("double.?.json"))) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return {"double": 2 * number}


def test_a_killed_process_costs_only_the_shards_that_it_did_not_finish(tmp_path: Path) -> None:
    def run(processes: int) -> list[dict[str, Any]]:
        with whole_folder(tmp_path / "whole", "key") as partial:
            tasks = [(number, tmp_path) for number in range(5)]
            return each_once("double", dies_once, tasks, partial / WORK, processes, lambda _: None)

    with pytest.raises(InputError, match="was killed, perhaps for want of memory: start again, and it goes on"):
        run(2)
    assert not (tmp_path / "whole").exists()
    assert run(1) == [{"double": 2 * number} for number in range(5)]
    begun = (tmp_path / "begun").read_text().split()
    assert [begun.count(str(number)) for number in range(4)] == [1, 1, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "killed", "whole"]


def test_what_a_killed_run_left_of_another_text_is_not_taken(tmp_path: Path) -> None:
    path = save(tmp_path, ".txt")
    fetch(path, tmp_path / "first", split="position")
    left = tmp_path / ".corpus.partial/.work"
    left.mkdir(parents=True)
    (left / "key.json").write_text('["files", "another"]\n')
    (left / "read.0.json").write_text('{"texts": []}\n')
    fetch(path, tmp_path / "corpus", split="position")
    assert contents(tmp_path / "corpus") == contents(tmp_path / "first")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, ".txt")
    source = files.source(fetch_config(source="files", files={"path": str(path), "split": "position"}))
    time.sleep(0.01)
    with path.open("a", encoding="utf-8") as file:
        file.write("more")
    with pytest.raises(InputError, match=r"a\.txt: changed while it was read"):
        write(source, tmp_path / "corpus")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_line_of_a_later_shard_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, ".jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3000] = b"{broken\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"a\.jsonl: line 3001: not JSON"):
        fetch(path, tmp_path / "corpus", processes=2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_ids_of_several_files_index_like_one_array() -> None:
    whole = np.arange(100, dtype=np.uint16)
    ids = ShardedIds([whole[:10], whole[10:10], whole[10:75], whole[75:]])
    rng = np.random.default_rng(1)
    for index in (
        slice(None), slice(3, 8), slice(5, 80), slice(90, 300), slice(50, 20), slice(0, 100, 7), slice(-5, None),
        0, 99, -1, rng.integers(-100, 100, (4, 9)), np.arange(100) % 3 == 0, [9, 10, 74, 75], np.zeros((0, 3), int),
    ):  # fmt: skip
        np.testing.assert_array_equal(ids[index], whole[index])
        assert ids[index].dtype == whole.dtype
    assert np.shares_memory(ids[12:70], whole)
    assert len(ids) == 100
    np.testing.assert_array_equal(np.asarray(ids, np.int64), whole)
    with pytest.raises(IndexError):
        ids[[100]]
