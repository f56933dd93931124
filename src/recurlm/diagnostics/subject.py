"""What is diagnosed: a trained model, the splits that it is read on, and the settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from recurlm.config import Params
from recurlm.diagnostics.intervals import Bootstrap
from recurlm.diagnostics.subset import passages
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.objective import Objective, objective_of
from recurlm.tokens.files import TokenFile, open_tokens
from recurlm.tokens.tokenizer import load_tokenizer

MIN_WINDOW_TOKENS = 8  # where documents are shorter than what params.yaml asks for


@dataclass(frozen=True)
class Subject:
    name: str
    model: LanguageModel
    params: Params
    data: Path
    train: TokenFile
    validation: TokenFile
    test: TokenFile
    tokenizer: Tokenizer

    @classmethod
    def open(cls, name: str, trained: LanguageModel, params: Params, data: Path) -> Subject:
        """With the splits of `data`, checked against the model.

        Raises:
            InputError: a file is missing or changed, a split is empty, or the vocabularies differ.
        """
        train, validation, test = (open_tokens(data / "tokens", split) for split in ("train", "validation", "test"))
        tokenizer = load_tokenizer(data / "tokens/tokenizer.json", train.manifest["tokenizer_sha256"])
        if not (validation.counts["tokens"] and test.counts["tokens"]):
            raise InputError("data/tokens: the validation or the test split has no tokens: give them a larger share")
        if trained.vocab_size != test.manifest["vocab_size"]:
            raise InputError(f"data/models/{name}: trained with another vocabulary than data/tokens: train it again")
        return cls(name, trained, params, data, train, validation, test, tokenizer)

    @property
    def objective(self) -> Objective:
        return objective_of(self.model)

    @cached_property
    def bootstrap(self) -> Bootstrap:
        settings = self.params.diagnose
        return Bootstrap(settings.bootstrap_samples, settings.confidence, settings.seed)

    def windows(self, count: int, length: int) -> Int[np.ndarray, "count length"]:
        """Random windows of validation text."""
        ids, starts = self.validation.ids, self.validation.starts
        return passages(ids, starts, count, length, MIN_WINDOW_TOKENS, self.params.diagnose.seed)
