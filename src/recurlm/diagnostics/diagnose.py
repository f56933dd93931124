"""The stage diagnose: all diagnostics of one trained model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from recurlm import model
from recurlm.config import Params
from recurlm.corpus.reader import open_split
from recurlm.diagnostics import context, gates, gradients, overfitting, samples
from recurlm.diagnostics.perplexity import Perplexity
from recurlm.diagnostics.subject import Subject
from recurlm.diagnostics.subset import head, line_starts, passages
from recurlm.model import LanguageModel

PARTS = 9
Block = dict[str, Any]
Begin = Callable[[str], object]  # told the name of each part of the work


class Diagnosis(NamedTuple):
    """The stage's three outputs."""

    perplexity: Block
    diagnostics: Block
    samples: Block


def diagnose(name: str, trained: LanguageModel, params: Params, data: Path) -> Diagnosis:
    """Perplexities, diagnostics and samples of a trained model."""
    subject = Subject.open(name, trained, params, data)
    head = {"variant": name, "objective": subject.objective.name}
    with tqdm(total=PARTS, desc=f"diagnose {name}", unit="part") as bar:

        def begin(part: str) -> None:
            bar.set_postfix_str(part)
            bar.update()

        perplexity, diagnostics = _perplexity(subject, begin), _diagnostics(subject, begin)
        begin("texts")
        return Diagnosis(head | perplexity, head | diagnostics, head | _samples(subject))


def _perplexity(subject: Subject, begin: Begin) -> Block:
    """The content of data/metrics/perplexity; a cloze model has no adaptive scores and no loss by position."""
    perplexity, adapts = Perplexity(subject), not subject.objective.both_sides
    begin("static")
    static, by_frequency, scores = perplexity.static()
    begin("cold windows")
    cold, by_position = perplexity.cold_windows()
    begin("neural cache")
    cached = perplexity.neural_cache(scores) if adapts else None
    begin("dynamic evaluation")
    return {
        **perplexity.about,
        "static": static,
        "cold_windows": cold,
        "neural_cache": cached,
        "dynamic_evaluation": perplexity.dynamic_evaluation() if adapts else None,
        "by_position": by_position,
        "by_frequency": by_frequency,
    }


def _diagnostics(subject: Subject, begin: Begin) -> Block:
    """The content of data/metrics/diagnostics."""
    blocks: dict[str, Any] = {}
    for name, measure in {
        "gradients": _gradients,
        "context": _context,
        "gates": _gates,
        "overfitting": _overfitting,
    }.items():
        begin(name)
        blocks[name] = measure(subject)
    return {"lesson": _lesson(subject, blocks["gradients"], blocks["context"]), **blocks}


def _gradients(subject: Subject) -> Block | None:
    """Gradient norms with fresh weights and with the trained ones, on the same text.

    The fresh ones are those that the training run began with, but where `train.init_from` gave it others, and but for a
    projection that is zero.
    """
    settings, objective, trained = subject.params.diagnose.gradients, subject.objective, subject.model
    length = objective.window_size(settings.reach + (0 if objective.both_sides else 1))
    windows = subject.windows(settings.windows, length)
    if not len(windows):
        return None
    torch.manual_seed(subject.params.train.seed)
    fresh = model.build(subject.name, subject.params.variant(subject.name), trained.vocab_size)
    drawn = gradients.let_through(fresh)
    fresh = fresh.to(trained.embedding.weight.device)
    return {
        "protocol": "loss of one token a window; windows of validation text, read from a zero state",
        "reference": "Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063",
        "unit": f"norm of d {objective.metric_prefix}nats / d state (or / d embedded token), k steps before the loss",
        "sides": len(objective.sides(trained.recurrence)),
        "windows": len(windows),
        "vanished_below": gradients.VANISHED,
        **({"projection_before_training": "drawn: a fresh one is zero, which no gradient passes"} if drawn else {}),
        "before_training": gradients.describe(gradients.flow(fresh, windows)),
        "after_training": gradients.describe(gradients.flow(trained, windows)),
    }


def _context(subject: Subject) -> Block | None:
    settings = subject.params.diagnose.context
    windows = subject.windows(settings.windows, subject.objective.window_size(settings.tokens))
    block = context.measure(subject.model, windows, settings, subject.bootstrap)
    return block and {
        "protocol": "the same targets of validation text, each with a context of its own, from a zero state",
        "reference": "Khandelwal, He, Qi & Jurafsky 2018, arXiv:1805.04623",
        **block,
    }


def _gates(subject: Subject) -> Block:
    settings = subject.params.diagnose.gates
    return gates.measure(subject.model, subject.windows(settings.windows, settings.tokens), settings)


def _overfitting(subject: Subject) -> Block:
    """The learning curve of the model's training run, and the two short runs."""
    settings, config = subject.params.diagnose.overfitting, subject.params.variant(subject.name)
    curve = subject.data / "models" / subject.name / "curve.csv"
    return {
        "learning_curve": overfitting.learning_curve(curve, subject.objective.metric_prefix),
        "dropout_of_the_model": config.dropout,
        "short_runs": overfitting.paired(
            subject.name,
            config,
            head(subject.train.ids, subject.train.starts, settings.train_tokens),
            head(subject.validation.ids, subject.validation.starts, settings.validation_tokens),
            subject.model.vocab_size,
            subject.train.manifest["special"],
            subject.params.train,
            settings,
        ),
    }


def _lesson(subject: Subject, flow: Block | None, reach: Block | None) -> Block:
    """This variant's row of the lesson: gates, sizes and memory. Its speed is in data/timings."""
    recurrence, config = subject.model.recurrence, subject.params.variant(subject.name)
    state = sum(torch.Size(shape).numel() for shape in recurrence.state_spec.values())
    return {
        "gates": recurrence.gates,
        "hidden_size": config.hidden_size,
        "layers": config.layers,
        "output_size": recurrence.output_size,
        "state_size": state,
        "state_bytes_fp32": 4 * state,
        "parameters": model.count_parameters(subject.model),
        "effective_context_tokens": reach and reach["effective_context_tokens"],
        "gradient_vanished_at_before_training": flow and flow["before_training"]["vanished_at"],
        "gradient_vanished_at_after_training": flow and flow["after_training"]["vanished_at"],
    }


def _samples(subject: Subject) -> Block:
    """The content of data/metrics/samples."""
    settings, seed = subject.params.diagnose.text, subject.params.diagnose.seed
    length = settings.prompt_tokens + settings.num_tokens
    ids, starts = subject.validation.ids, subject.validation.starts
    begins = line_starts(ids, starts, subject.tokenizer)
    held_out = passages(ids, starts, settings.num_samples, length, length, seed, begins)
    train = open_split(subject.data / "corpus", "train")
    special = subject.train.manifest["special"]
    return samples.measure(subject.model, held_out, subject.tokenizer, train.documents(), special, settings, seed)
