"""A run that is broken off goes on, and ends with the bytes of one that nobody stopped."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from recurlm import config
from recurlm.training.checkpoint import Checkpoint, key_of

ROOT = Path(__file__).parents[2]
KILLED = Path(__file__).with_name("killed_training.py")
RESULTS = ("model.safetensors", "model.json", "curve.csv")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with tokens, and nothing trained."""
    folder = tmp_path_factory.mktemp("prepared")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["fetch"] |= {"source": "files"}
    params["fetch"]["files"] |= {"path": "text/*.txt", "split": "position"}
    params["tokenize"] |= {"kind": "char"}
    params["train"] |= {"epochs": 2, "batch_size": 4, "sequence_length": 16, "checkpoint_seconds": 0}
    params["train"] |= {"average": "ema", "ramp_share": 0.3, "ramp_batch": 2, "ramp_time": 4}
    for block in params["variants"].values():
        block |= {"embedding_size": 8, "hidden_size": 12, "dropout": 0.2, "weight_drop": 0.2, "embed_dropout": 0.1}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (folder / "text").mkdir()
    lines = (f"KING. The {number} ships of {number * 7 % 31} lords come home, and sing.\n" for number in range(600))
    (folder / "text/play.txt").write_text("".join(lines), encoding="utf-8")
    for script in ("fetch.py", "tokenize_corpus.py"):
        subprocess.run([sys.executable, ROOT / "pipelines" / script], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "project"))


def command(variant: str) -> list[str]:
    return [sys.executable, str(ROOT / "pipelines/train.py"), variant]


def results(folder: Path, variant: str) -> dict[str, bytes]:
    return {name: (folder / "data/models" / variant / name).read_bytes() for name in RESULTS}


@pytest.mark.parametrize(("variant", "seed"), [("lstm", 1), ("bilstm", 2)])
def test_twenty_kills_change_no_byte_of_the_result(folder: Path, variant: str, seed: int) -> None:
    subprocess.run(command(variant), cwd=folder, check=True, capture_output=True)
    whole = results(folder, variant)
    kills = resumed = 0
    while kills < 20:
        shutil.rmtree(folder / "data/models" / variant)
        seed += 10
        told = subprocess.run(
            [sys.executable, KILLED, variant, str(20 - kills), str(seed)], cwd=folder, check=True, capture_output=True
        )
        killed, went_on = map(int, told.stdout.split())
        assert results(folder, variant) == whole
        assert list((folder / "data/checkpoints").iterdir()) == []
        kills, resumed = kills + killed, resumed + went_on
    assert resumed >= 5


def test_ctrl_c_ends_after_the_step_and_says_how_to_go_on(folder: Path) -> None:
    subprocess.run(command("gru"), cwd=folder, check=True, capture_output=True)
    whole = results(folder, "gru")
    shutil.rmtree(folder / "data/models/gru")

    running = subprocess.Popen(command("gru"), cwd=folder, stderr=subprocess.PIPE, text=True)
    while not list((folder / "data/checkpoints").glob("gru.safetensors")):
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    last = told.splitlines()[-1]
    assert last.startswith("recurlm: stopped after step ")
    assert last.endswith("data/checkpoints/gru.safetensors is kept: run it again to go on")

    subprocess.run(command("gru"), cwd=folder, check=True, capture_output=True)
    assert results(folder, "gru") == whole


def test_a_run_with_other_parameters_starts_anew(folder: Path) -> None:
    changed = (folder / "params.yaml").read_text(encoding="utf-8").replace("seed: 1", "seed: 2")
    (folder / "other.yaml").write_text(changed, encoding="utf-8")
    running = subprocess.Popen(command("rnn"), cwd=folder, stderr=subprocess.DEVNULL)
    while not list((folder / "data/checkpoints").glob("rnn.safetensors")):
        time.sleep(0.01)
    running.kill()
    running.wait()
    (folder / "other.yaml").replace(folder / "params.yaml")
    subprocess.run(command("rnn"), cwd=folder, check=True, capture_output=True)
    after_kill = results(folder, "rnn")
    subprocess.run(command("rnn"), cwd=folder, check=True, capture_output=True)
    assert results(folder, "rnn") == after_kill


def test_the_key_follows_parameters_data_and_code(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("1")
    keys = {key_of({"seed": 1}, [code]), key_of({"seed": 2}, [code])}
    (code / "a.py").write_text("2")
    keys.add(key_of({"seed": 1}, [code]))
    (code / "b.py").write_text("")
    keys.add(key_of({"seed": 1}, [code]))
    assert len(keys) == 4


def test_a_checkpoint_of_another_run_or_a_broken_one_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    mine = Checkpoint(path, "mine", every=0)
    assert mine.load() is None
    mine.save({"model/w": torch.ones(2)}, {"step": 3})
    saved = mine.load()
    assert saved is not None
    assert saved.facts == {"step": 3}
    assert torch.equal(saved.part("model")["w"], torch.ones(2))
    assert Checkpoint(path, "another", every=0).load() is None
    path.write_bytes(path.read_bytes()[:40])
    assert mine.load() is None


def test_how_often_to_save_is_a_parameter_that_shapes_no_result() -> None:
    assert config.Train().checkpoint_seconds == 30
