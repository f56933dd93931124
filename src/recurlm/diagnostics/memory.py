"""What a model keeps, for how long, and whether it learned too much by heart: data/metrics/diagnostics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from recurlm import model
from recurlm.config import Params
from recurlm.diagnostics import context, gates, gradients, overfitting
from recurlm.diagnostics.intervals import Bootstrap
from recurlm.diagnostics.parts import beginnings
from recurlm.diagnostics.passages import passages
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.tokens.files import TokenFile

FEWEST = 8  # tokens of a window at least, where documents are shorter than what params.yaml asks for


class Memory:
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
        """Of validation text."""
        return passages(self.validation.ids, self.validation.starts, count, length, FEWEST, self.settings.seed)

    def gradients(self) -> dict[str, Any] | None:
        """Of fresh weights, those that the training run began with, and of the trained ones, on the same windows."""
        settings = self.settings.gradients
        length = self.objective.window_size(settings.reach + (0 if self.objective.both_sides else 1))
        found = self._windows(settings.windows, length)
        if not len(found):
            return None
        torch.manual_seed(self.params.train.seed)
        fresh = model.build(self.name, self.config, self.model.vocab_size).to(self.model.embedding.weight.device)
        return {
            "protocol": "loss of one token a window; windows of validation text, read from a zero state",
            "reference": "Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063",
            "unit": "norm of d nats / d state (or / d embedded token), k steps before the loss",
            "sides": len(self.objective.sides(self.model.recurrence)),
            "windows": len(found),
            "vanished_below": gradients.VANISHED,
            "before_training": gradients.describe(gradients.flow(fresh, found)),
            "after_training": gradients.describe(gradients.flow(self.model, found)),
        }

    def context(self) -> dict[str, Any] | None:
        settings = self.settings.context
        length = self.objective.window_size(settings.tokens)
        found = context.measure(self.model, self._windows(settings.windows, length), settings, self.bootstrap)
        return found and {
            "protocol": "the same targets of validation text, each with a context of its own, from a zero state",
            "reference": "Khandelwal, He, Qi & Jurafsky 2018, arXiv:1805.04623",
            **found,
        }

    def gates(self) -> dict[str, Any]:
        settings = self.settings.gates
        return gates.measure(self.model, self._windows(settings.windows, settings.tokens), settings)

    def overfitting(self, curve: Path) -> dict[str, Any]:
        """The learning curve of the model, and the two short runs."""
        settings = self.settings.overfitting
        training = beginnings(self.train.ids, self.train.starts, settings.train_tokens)
        validation = beginnings(self.validation.ids, self.validation.starts, settings.validation_tokens)
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

    def lesson(self, found: dict[str, Any]) -> dict[str, Any]:
        """The lesson's row of this variant: gates and memory as numbers. Its speed is in data/timings."""
        state = sum(torch.Size(shape).numel() for shape in self.model.recurrence.state_spec.values())
        flow, used = found["gradients"], found["context"]
        return {
            "gates": self.model.recurrence.gates,
            "hidden_size": self.config.hidden_size,
            "layers": self.config.layers,
            "output_size": self.model.recurrence.output_size,
            "state_size": state,
            "state_bytes_fp32": 4 * state,
            "parameters": model.count_parameters(self.model),
            "effective_context_tokens": used and used["effective_context_tokens"],
            "gradient_vanished_at_before_training": flow and flow["before_training"]["vanished_at"],
            "gradient_vanished_at_after_training": flow and flow["after_training"]["vanished_at"],
        }
