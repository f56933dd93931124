"""The oldest onnxruntime that the README names draws the tokens of the present one, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from configs import LESSON, PARAMS
from tiny_bundles import TinyBundles

from recurlm.config import override
from recurlm.runtime import Generator

OLDEST = "1.15.1"  # with wheels for Python 3.11; the opset is that of 1.14
SOURCE = Path(__file__).resolve().parents[2] / "src"
CAUSAL = list(LESSON)
PRECISIONS = ("fp32", "int8", "int4")
SETTINGS = [
    {"seed": 1},
    {"seed": 2, "top_k": 0, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.2},
    {"temperature": 0.0},
]
SCRIPT = """
import json, sys
import onnxruntime
from recurlm.errors import InputError
from recurlm.runtime import Generator
folders, settings = json.loads(sys.argv[1])
generators = [Generator.from_bundle(folder) for folder in folders]
texts = [[generator.generate("king or", 40, **setting) for setting in settings] for generator in generators]
try:
    Generator.from_bundle(sys.argv[2])
    refusal = ""
except InputError as error:
    refusal = str(error)
print(json.dumps([onnxruntime.__version__, texts, refusal]))
"""


@pytest.mark.system
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason=f"onnxruntime {OLDEST} has no wheel for this Python")
def test_the_oldest_onnxruntime_gives_the_same_text(bundles: TinyBundles, tmp_path: Path) -> None:
    folders = [str(bundles(name, "bpe", precision)) for name in CAUSAL for precision in PRECISIONS]
    too_new = bundles("lstm", settings=override(PARAMS.export, {"opset": 23, "ir_version": 11}))
    venv.create(tmp_path / "old", with_pip=True)
    python = str(tmp_path / "old/bin/python")
    packages = [f"onnxruntime=={OLDEST}", "numpy<2", "tokenizers"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    result = subprocess.run(
        [python, "-c", SCRIPT, json.dumps([folders, SETTINGS]), str(too_new)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(SOURCE)},
    )
    assert result.returncode == 0, result.stderr
    version, texts, refusal = json.loads(result.stdout)
    assert version == OLDEST
    assert texts == [
        [Generator.from_bundle(folder).generate("king or", 40, **setting) for setting in SETTINGS] for folder in folders
    ]
    assert f"onnxruntime {OLDEST} cannot run it" in refusal
    assert "\n" not in refusal
