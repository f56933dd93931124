"""All diagnostics of one trained model, in the order of the stage diagnose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from recurlm.config import Params
from recurlm.corpus.reader import CorpusSplit, open_split
from recurlm.diagnostics import samples, speed
from recurlm.diagnostics.memory import Memory
from recurlm.diagnostics.passages import passages
from recurlm.diagnostics.perplexity import Measure, Text
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.tokens.files import open_tokens
from recurlm.tokens.tokenizer import load_tokenizer

PARTS = 10
Result = TypeVar("Result")


class Diagnosis(NamedTuple):
    """What the stage writes: three files of results, and measurements of this machine."""

    perplexity: dict[str, Any]
    diagnostics: dict[str, Any]
    samples: dict[str, Any]
    timings: dict[str, Any]


class Progress:
    """Names each part of the work on a bar, and notes how long it took."""

    def __init__(self, name: str) -> None:
        self.bar = tqdm(total=PARTS, desc=f"diagnose {name}", unit="part")
        self.seconds: dict[str, float] = {}

    def __call__(self, part: str, work: Callable[[], Result]) -> Result:
        self.bar.set_postfix_str(part)
        started = time.perf_counter()
        result = work()
        self.seconds[part] = time.perf_counter() - started
        self.bar.update()
        return result


def open_text(data: Path, name: str, trained: LanguageModel) -> Text:
    """The splits and the tokenizer, checked against the model.

    Raises:
        InputError: a file is missing or changed, a split is empty, or the vocabularies differ.
    """
    train, validation, test = (open_tokens(data / "tokens", split) for split in ("train", "validation", "test"))
    tokenizer = load_tokenizer(data / "tokens/tokenizer.json", train.manifest["tokenizer_sha256"])
    text = Text(train, validation, test, open_split(data / "corpus", "test"), tokenizer)
    for split in (text.validation, text.test):
        if not split.counts["tokens"]:
            raise InputError("data/tokens: the validation or the test split has no tokens: give them a larger share")
    if trained.vocab_size != text.test.manifest["vocab_size"]:
        raise InputError(f"data/models/{name}: trained with another vocabulary than data/tokens: train it again")
    return text


def diagnose(name: str, trained: LanguageModel, params: Params, data: Path) -> Diagnosis:
    """Adaptive perplexities, memory, gates, overfitting and texts of a trained model."""
    text, progress = open_text(data, name, trained), Progress(name)
    head = {"variant": name, "objective": objective_of(trained).name}
    perplexities = _perplexity(trained, text, params, progress)
    memory = _memory(name, trained, text, params, data, progress)
    sampled = progress("texts", lambda: _texts(trained, text, params, data))
    timings = progress("speed", lambda: speed.measure(trained, params.train, params.diagnose.speed))
    progress.bar.close()
    timings |= {"seconds_of_the_stage": progress.seconds}
    return Diagnosis(head | perplexities, head | memory, head | sampled, timings)


def _perplexity(trained: LanguageModel, text: Text, params: Params, progress: Progress) -> dict[str, Any]:
    """What stands in data/metrics/perplexity; a cloze model has no adaptive scores, and no position in a context."""
    measure = Measure(trained, text, params.diagnose, params.evaluate)
    static, frequency, whole = progress("static", measure.static)
    cold, position = progress("cold windows", measure.cold)
    adapts = not objective_of(trained).both_sides
    adaptive = {"neural_cache": lambda: measure.cached(whole), "dynamic_evaluation": measure.adapted}
    return {
        **measure.about,
        "static": static,
        "cold_windows": cold,
        **{part: progress(part, work) if adapts else None for part, work in adaptive.items()},
        "by_position": position if adapts else None,
        "by_frequency": frequency,
    }


def _memory(
    name: str, trained: LanguageModel, text: Text, params: Params, data: Path, progress: Progress
) -> dict[str, Any]:
    """What stands in data/metrics/diagnostics."""
    memory = Memory(name, trained, text.train, text.validation, params)
    blocks = {
        "gradients": progress("gradients", memory.gradients),
        "context": progress("context", memory.context),
        "gates": progress("gates", memory.gates),
        "overfitting": progress("overfitting", lambda: memory.overfitting(data / "models" / name / "curve.csv")),
    }
    return {"lesson": memory.lesson(blocks), **blocks}


def _texts(trained: LanguageModel, text: Text, params: Params, data: Path) -> dict[str, Any]:
    """What stands in data/metrics/samples."""
    settings, seed = params.diagnose.text, params.diagnose.seed
    length = settings.prompt_tokens + settings.num_tokens
    held_out = passages(text.validation.ids, text.validation.starts, settings.num_samples, length, length, seed)
    special = text.train.manifest["special"]
    train = _documents(open_split(data / "corpus", "train"))
    return samples.measure(trained, held_out, text.tokenizer, train, special, settings, seed)


def _documents(split: CorpusSplit) -> Iterator[str]:
    return ("".join(split.pieces(document)) for document in range(len(split)))
