"""The stage diagnose: all diagnostics of one trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from recurlm.config import Params
from recurlm.corpus.reader import CorpusSplit, open_split
from recurlm.diagnostics import samples
from recurlm.diagnostics.model_diagnostics import ModelDiagnostics
from recurlm.diagnostics.passages import line_starts, passages
from recurlm.diagnostics.perplexity import ModelPerplexity, Splits
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.tokens.files import open_tokens
from recurlm.tokens.tokenizer import load_tokenizer

PARTS = 9
Result = TypeVar("Result")


class Diagnosis(NamedTuple):
    """The stage's three outputs."""

    perplexity: dict[str, Any]
    diagnostics: dict[str, Any]
    samples: dict[str, Any]


class Progress:
    """A progress bar over the parts of the stage."""

    def __init__(self, name: str) -> None:
        self.bar = tqdm(total=PARTS, desc=f"diagnose {name}", unit="part")

    def __call__(self, part: str, work: Callable[[], Result]) -> Result:
        self.bar.set_postfix_str(part)
        result = work()
        self.bar.update()
        return result


def open_splits(data: Path, name: str, trained: LanguageModel) -> Splits:
    """The splits and the tokenizer, checked against the model.

    Raises:
        InputError: a file is missing or changed, a split is empty, or the vocabularies differ.
    """
    train, validation, test = (open_tokens(data / "tokens", split) for split in ("train", "validation", "test"))
    tokenizer = load_tokenizer(data / "tokens/tokenizer.json", train.manifest["tokenizer_sha256"])
    splits = Splits(train, validation, test, open_split(data / "corpus", "test"), tokenizer)
    for split in (splits.validation, splits.test):
        if not split.counts["tokens"]:
            raise InputError("data/tokens: the validation or the test split has no tokens: give them a larger share")
    if trained.vocab_size != splits.test.manifest["vocab_size"]:
        raise InputError(f"data/models/{name}: trained with another vocabulary than data/tokens: train it again")
    return splits


def diagnose(name: str, trained: LanguageModel, params: Params, data: Path) -> Diagnosis:
    """Perplexities, diagnostics and samples of a trained model."""
    splits, progress = open_splits(data, name, trained), Progress(name)
    head = {"variant": name, "objective": objective_of(trained).name}
    perplexities = _perplexity(trained, splits, params, progress)
    diagnostics = _diagnostics(name, trained, splits, params, data, progress)
    sampled = progress("texts", lambda: _samples(trained, splits, params, data))
    progress.bar.close()
    return Diagnosis(head | perplexities, head | diagnostics, head | sampled)


def _perplexity(trained: LanguageModel, splits: Splits, params: Params, progress: Progress) -> dict[str, Any]:
    """The content of data/metrics/perplexity; a cloze model has no adaptive scores and no loss by position."""
    perplexity = ModelPerplexity(trained, splits, params.diagnose, params.evaluate)
    static, frequency, scores = progress("static", perplexity.static)
    cold, position = progress("cold windows", perplexity.cold_windows)
    adapts = not objective_of(trained).both_sides
    adaptive = {
        "neural_cache": lambda: perplexity.neural_cache(scores),
        "dynamic_evaluation": perplexity.dynamic_evaluation,
    }
    return {
        **perplexity.about,
        "static": static,
        "cold_windows": cold,
        **{part: progress(part, work) if adapts else None for part, work in adaptive.items()},
        "by_position": position if adapts else None,
        "by_frequency": frequency,
    }


def _diagnostics(
    name: str, trained: LanguageModel, splits: Splits, params: Params, data: Path, progress: Progress
) -> dict[str, Any]:
    """The content of data/metrics/diagnostics."""
    diagnostics = ModelDiagnostics(name, trained, splits.train, splits.validation, params)
    blocks = {
        "gradients": progress("gradients", diagnostics.gradients),
        "context": progress("context", diagnostics.context),
        "gates": progress("gates", diagnostics.gates),
        "overfitting": progress("overfitting", lambda: diagnostics.overfitting(data / "models" / name / "curve.csv")),
    }
    return {"lesson": diagnostics.lesson(blocks), **blocks}


def _samples(trained: LanguageModel, splits: Splits, params: Params, data: Path) -> dict[str, Any]:
    """The content of data/metrics/samples."""
    settings, seed = params.diagnose.text, params.diagnose.seed
    length = settings.prompt_tokens + settings.num_tokens
    ids, starts = splits.validation.ids, splits.validation.starts
    begins = line_starts(ids, starts, splits.tokenizer)
    held_out = passages(ids, starts, settings.num_samples, length, length, seed, begins)
    special = splits.train.manifest["special"]
    train = _documents(open_split(data / "corpus", "train"))
    return samples.measure(trained, held_out, splits.tokenizer, train, special, settings, seed)


def _documents(split: CorpusSplit) -> Iterator[str]:
    return ("".join(split.pieces(document)) for document in range(len(split)))
