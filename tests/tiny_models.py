"""Tiny models with random weights, and splits of random tokens, for tests of measures."""

from __future__ import annotations

import numpy as np
import torch
from configs import LESSON, model_config
from torch import nn

from recurlm.config import ModelConfig
from recurlm.model import LanguageModel, build

VOCABULARY = 13
START = 0
CAUSAL = LESSON
CLOZE = ["bilstm", "bigru"]


def small_config(name: str = "lstm", dropout: float = 0.5) -> ModelConfig:
    return model_config(name, dropout=dropout)


def make(name: str, std: float = 0.5) -> LanguageModel:
    """As a model is loaded: in evaluation mode, its weights fixed."""
    torch.manual_seed(1)
    model = build(name, small_config(name), VOCABULARY)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model.eval().requires_grad_(False)


def split_of(*lengths: int) -> tuple[np.ndarray, np.ndarray]:
    """Random documents of so many text tokens, as the files of a split hold them."""
    random = np.random.default_rng(4)
    documents = [np.concatenate([[START], random.integers(2, VOCABULARY, length)]) for length in lengths]
    starts = np.cumsum([0, *(len(document) for document in documents)])
    return np.concatenate(documents).astype(np.uint16), starts
