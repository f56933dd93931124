"""A run that is broken off goes on, and ends with the bytes of one that nobody stopped."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from recurlm import config
from recurlm.training.checkpoint import Checkpoint, Snapshot, run_key
from recurlm.training.run import key_of

ROOT = Path(__file__).parents[2]
KILLED = Path(__file__).with_name("killed_training.py")
RESULTS = ("model.safetensors", "model.json", "curve.csv", "log.csv")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with tokens, and nothing trained."""
    folder = tmp_path_factory.mktemp("prepared")
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["fetch"] |= {"source": "files"}
    params["fetch"]["files"] |= {"path": "text/*.txt", "split": "position"}
    params["tokenize"] |= {"kind": "char"}
    params["train"]["data"] |= {"epochs": 2, "batch_size": 4, "sequence_length": 16}
    params["train"]["checkpoint"] |= {"every_seconds": 0}
    params["train"]["regularization"] |= {"average": "ema"}
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


def wait_for_a_checkpoint(running: subprocess.Popen[Any], folder: Path, variant: str) -> None:
    while not (folder / f"data/checkpoints/{variant}.safetensors").exists():
        assert running.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize(("variant", "seed"), [("lstm", 1), ("bilstm", 2)])
def test_ten_kills_change_no_byte_of_the_result(folder: Path, variant: str, seed: int) -> None:
    subprocess.run(command(variant), cwd=folder, check=True, capture_output=True)
    whole = results(folder, variant)
    kills = resumed = 0
    while kills < 10:
        shutil.rmtree(folder / "data/models" / variant)
        seed += 10
        output = subprocess.run(
            [sys.executable, KILLED, variant, str(10 - kills), str(seed)], cwd=folder, check=True, capture_output=True
        )
        killed, went_on = map(int, output.stdout.split())
        assert results(folder, variant) == whole
        assert list((folder / "data/checkpoints").iterdir()) == []
        kills, resumed = kills + killed, resumed + went_on
    assert resumed >= 3


def test_ctrl_c_ends_after_the_step_and_says_how_to_go_on(folder: Path) -> None:
    subprocess.run(command("gru"), cwd=folder, check=True, capture_output=True)
    whole = results(folder, "gru")
    shutil.rmtree(folder / "data/models/gru")

    running = subprocess.Popen(command("gru"), cwd=folder, stderr=subprocess.PIPE, text=True)
    wait_for_a_checkpoint(running, folder, "gru")
    running.send_signal(signal.SIGINT)
    _, output = running.communicate(timeout=60)
    assert running.returncode == 130
    last = output.splitlines()[-1]
    assert last.startswith("recurlm: stopped after step ")
    assert last.endswith("data/checkpoints/gru.safetensors is kept: run it again to go on")

    subprocess.run(command("gru"), cwd=folder, check=True, capture_output=True)
    assert results(folder, "gru") == whole


def test_a_run_with_other_parameters_starts_anew(folder: Path) -> None:
    changed = (folder / "params.yaml").read_text(encoding="utf-8").replace("seed: 1", "seed: 2")
    (folder / "other.yaml").write_text(changed, encoding="utf-8")
    running = subprocess.Popen(command("rnn"), cwd=folder, stderr=subprocess.DEVNULL)
    wait_for_a_checkpoint(running, folder, "rnn")
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
    keys = {run_key({"seed": 1}, [code]), run_key({"seed": 2}, [code])}
    (code / "a.py").write_text("2")
    keys.add(run_key({"seed": 1}, [code]))
    (code / "b.py").write_text("")
    keys.add(run_key({"seed": 1}, [code]))
    assert len(keys) == 4


def test_a_checkpoint_of_another_run_or_a_broken_one_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    mine = Checkpoint(path, "mine", every=0)
    assert mine.load() is None
    mine.save(Snapshot({"model/w": torch.ones(2)}, {"step": 3}))
    saved = mine.load()
    assert saved is not None
    assert saved.values == {"step": 3}
    assert torch.equal(saved.part("model")["w"], torch.ones(2))
    assert Checkpoint(path, "another", every=0).load() is None
    path.write_bytes(path.read_bytes()[:40])
    assert mine.load() is None


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"checkpoint.every_seconds": 7}, True),
        ({"machine.threads": 1}, True),
        ({"machine.processes": 2}, True),
        ({"machine.progress_seconds": 3}, True),
        ({"evaluation.num_evals": 4}, False),
        ({"data.mask_prob": 0.2}, False),
    ],
)
def test_only_what_shapes_the_weights_makes_another_run(prepared: Path, change: dict[str, float], same: bool) -> None:
    params = config.load(prepared / "params.yaml")
    changed = params.model_copy(update={"train": config.override(params.train, change)})
    keys = [key_of("gru", each, torch.device("cpu"), prepared / "data") for each in (params, changed)]
    assert (keys[0] == keys[1]) == same
