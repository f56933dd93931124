"""Stage diagnose@<variant>: adaptive perplexities, memory, gates, overfitting and texts of a trained model.

Inputs:  data/models/<variant>/, data/tokens/, data/corpus/, sections `diagnose`, `evaluate`, `train` of params.yaml
Outputs: data/metrics/perplexity/<variant>.json, data/metrics/diagnostics/<variant>.json,
         data/metrics/samples/<variant>.json
         data/timings/diagnose-<variant>.json (a measurement of this machine: DVC does not hash it)
Command: python pipelines/diagnose.py <variant>
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from recurlm import config, model
from recurlm.config import Params
from recurlm.corpus.reader import CorpusSplit, open_split
from recurlm.diagnostics import samples, speed
from recurlm.diagnostics.memory import Memory
from recurlm.diagnostics.perplexity import Measure, Text
from recurlm.diagnostics.windows import windows
from recurlm.errors import InputError, exit_cleanly
from recurlm.model import LanguageModel
from recurlm.storage import sha256_of, write_json
from recurlm.tokens.files import open_tokens
from recurlm.tokens.tokenizer import load_tokenizer
from recurlm.training.memory import tune_malloc

DATA = Path("data")
PARTS = 10
Found = TypeVar("Found")


class Progress:
    """Names each part of the work on a bar, and notes how long it took."""

    def __init__(self, name: str) -> None:
        self.bar = tqdm(total=PARTS, desc=f"diagnose {name}", unit="part")
        self.seconds: dict[str, float] = {}

    def __call__(self, part: str, work: Callable[[], Found]) -> Found:
        self.bar.set_postfix_str(part)
        started = time.perf_counter()
        found = work()
        self.seconds[part] = time.perf_counter() - started
        self.bar.update()
        return found


def main() -> None:
    if len(sys.argv) != 2:
        raise InputError("which variant? python pipelines/diagnose.py VARIANT")
    name, params = sys.argv[1], config.load()
    params.variant(name)
    tune_malloc()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    trained = model.load(DATA / "models" / name).to(model.best_device("auto"))
    train, validation, test = (open_tokens(DATA / "tokens", split) for split in ("train", "validation", "test"))
    tokenizer = load_tokenizer(DATA / "tokens/tokenizer.json", train.manifest["tokenizer_sha256"])
    text = Text(train, validation, test, open_split(DATA / "corpus", "test"), tokenizer)
    for split in (text.validation, text.test):
        if not split.counts["tokens"]:
            raise InputError("data/tokens: the validation or the test split has no tokens: give them a larger share")
    if trained.vocab_size != text.test.manifest["vocab_size"]:
        raise InputError(f"data/models/{name}: trained with another vocabulary than data/tokens: train it again")

    progress = Progress(name)
    perplexities = perplexity(trained, text, params, progress)
    diagnostics = memory(name, trained, text, params, progress)
    written = progress("texts", lambda: texts(trained, text, params))
    timings = progress("speed", lambda: speed.measure(trained, params.train, params.diagnose.speed))
    progress.bar.close()

    head = {"variant": name, "causal": trained.causal}
    write_json(DATA / "metrics/perplexity" / f"{name}.json", head | perplexities)
    write_json(DATA / "metrics/diagnostics" / f"{name}.json", head | diagnostics)
    write_json(DATA / "metrics/samples" / f"{name}.json", head | written)
    stamp = {"model_sha256": sha256_of(DATA / "models" / name / "model.safetensors")}
    write_json(DATA / "timings" / f"diagnose-{name}.json", stamp | timings | {"seconds_of_the_stage": progress.seconds})


def perplexity(trained: LanguageModel, text: Text, params: Params, progress: Progress) -> dict[str, Any]:
    """What stands in data/metrics/perplexity; a cloze model has no adaptive scores, and no position in a context."""
    measure = Measure(trained, text, params.diagnose, params.evaluate)
    static, frequency, whole = progress("static", measure.static)
    cold, position = progress("cold windows", measure.cold)
    adaptive = {"neural_cache": lambda: measure.cached(whole), "dynamic_evaluation": measure.adapted}
    return {
        **measure.about,
        "static": static,
        "cold_windows": cold,
        **{part: progress(part, work) if trained.causal else None for part, work in adaptive.items()},
        "by_position": position if trained.causal else None,
        "by_frequency": frequency,
    }


def memory(name: str, trained: LanguageModel, text: Text, params: Params, progress: Progress) -> dict[str, Any]:
    """What stands in data/metrics/diagnostics."""
    found = Memory(name, trained, text.train, text.validation, params)
    blocks = {
        "gradients": progress("gradients", found.gradients),
        "context": progress("context", found.context),
        "gates": progress("gates", found.gates),
        "overfitting": progress("overfitting", lambda: found.overfitting(DATA / "models" / name / "curve.csv")),
    }
    return {"lesson": found.lesson(blocks), **blocks}


def texts(trained: LanguageModel, text: Text, params: Params) -> dict[str, Any]:
    """What stands in data/metrics/samples."""
    settings, seed = params.diagnose.text, params.diagnose.seed
    length = settings.prompt_tokens + settings.tokens
    passages = windows(text.validation.ids, text.validation.starts, settings.samples, length, length, seed)
    train = open_split(DATA / "corpus", "train")
    special = text.train.manifest["special"]
    return samples.measure(trained, passages, text.tokenizer, documents(train), special, settings, seed)


def documents(split: CorpusSplit) -> Any:
    return ("".join(split.pieces(document)) for document in range(len(split)))


if __name__ == "__main__":
    exit_cleanly(main)
