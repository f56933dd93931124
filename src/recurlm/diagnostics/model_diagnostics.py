"""Gradient flow, effective context, gates and overfitting of one model: data/metrics/diagnostics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from recurlm import model
from recurlm.config import Params
from recurlm.diagnostics import context, gates, gradients, overfitting
from recurlm.diagnostics.intervals import Bootstrap
from recurlm.diagnostics.passages import passages
from recurlm.diagnostics.subset import head
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.tokens.files import TokenFile

MIN_WINDOW_TOKENS = 8  # where documents are shorter than what params.yaml asks for


class ModelDiagnostics:
    """One model's diagnostics; each method is a block of data/metrics/diagnostics/<variant>.json."""

    def __init__(
        self, name: str, trained: LanguageModel, train: TokenFile, validation: TokenFile, params: Params
    ) -> None:
        self.name, self.model, self.params = name, trained, params
        self.settings, self.config = params.diagnose, params.variant(name)
        self.train, self.validation = train, validation
        self.objective = objective_of(trained)
        self.bootstrap = Bootstrap(self.settings.bootstrap_samples, self.settings.confidence, self.settings.seed)

    def _windows(self, count: int, length: int) -> Any:
        """Random windows of validation text."""
        ids, starts = self.validation.ids, self.validation.starts
        return passages(ids, starts, count, length, MIN_WINDOW_TOKENS, self.settings.seed)

    def gradients(self) -> dict[str, Any] | None:
        """Gradient norms with the initial weights of the training run and with the trained ones, on the same text."""
        settings = self.settings.gradients
        length = self.objective.window_size(settings.reach + (0 if self.objective.both_sides else 1))
        windows = self._windows(settings.windows, length)
        if not len(windows):
            return None
        prefix = self.objective.metric_prefix
        torch.manual_seed(self.params.train.seed)
        fresh = model.build(self.name, self.config, self.model.vocab_size).to(self.model.embedding.weight.device)
        return {
            "protocol": "loss of one token a window; windows of validation text, read from a zero state",
            "reference": "Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063",
            "unit": f"norm of d {prefix}nats / d state (or / d embedded token), k steps before the loss",
            "sides": len(self.objective.sides(self.model.recurrence)),
            "windows": len(windows),
            "vanished_below": gradients.VANISHED,
            "before_training": gradients.describe(gradients.flow(fresh, windows)),
            "after_training": gradients.describe(gradients.flow(self.model, windows)),
        }

    def context(self) -> dict[str, Any] | None:
        """Effective context."""
        settings = self.settings.context
        length = self.objective.window_size(settings.tokens)
        block = context.measure(self.model, self._windows(settings.windows, length), settings, self.bootstrap)
        return block and {
            "protocol": "the same targets of validation text, each with a context of its own, from a zero state",
            "reference": "Khandelwal, He, Qi & Jurafsky 2018, arXiv:1805.04623",
            **block,
        }

    def gates(self) -> dict[str, Any]:
        """Gate activations."""
        settings = self.settings.gates
        return gates.measure(self.model, self._windows(settings.windows, settings.tokens), settings)

    def overfitting(self, curve: Path) -> dict[str, Any]:
        """The learning curve of the model's training run, and the two short runs."""
        settings = self.settings.overfitting
        training = head(self.train.ids, self.train.starts, settings.train_tokens)
        validation = head(self.validation.ids, self.validation.starts, settings.validation_tokens)
        return {
            "learning_curve": overfitting.learning_curve(curve, self.objective.metric_prefix),
            "dropout_of_the_model": self.config.dropout,
            "short_runs": overfitting.paired(
                self.name,
                self.config,
                training,
                validation,
                self.model.vocab_size,
                self.train.manifest["special"],
                self.params.train,
                settings,
            ),
        }

    def lesson(self, blocks: dict[str, Any]) -> dict[str, Any]:
        """This variant's row of the lesson: gates, sizes and memory. Its speed is in data/timings."""
        state = sum(torch.Size(shape).numel() for shape in self.model.recurrence.state_spec.values())
        flow, reach = blocks["gradients"], blocks["context"]
        return {
            "gates": self.model.recurrence.gates,
            "hidden_size": self.config.hidden_size,
            "layers": self.config.layers,
            "output_size": self.model.recurrence.output_size,
            "state_size": state,
            "state_bytes_fp32": 4 * state,
            "parameters": model.count_parameters(self.model),
            "effective_context_tokens": reach and reach["effective_context_tokens"],
            "gradient_vanished_at_before_training": flow and flow["before_training"]["vanished_at"],
            "gradient_vanished_at_after_training": flow and flow["after_training"]["vanished_at"],
        }
