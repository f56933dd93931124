"""Variants that exports are tested with: each cell, both objectives, residual blocks, states of rank 2 and 3."""

from __future__ import annotations

from unittest.mock import patch

from cells.linear_attention import LinearAttention
from configs import LESSON, PARAMS, model_config
from torch import nn

from recurlm.config import Export, override
from recurlm.model import LanguageModel, build
from recurlm.objective import objective_of
from recurlm.variants import REGISTRY

BLOCK = {"block": "residual", "conv": 4, "mlp_ratio": 1.0}
CASES = {
    **{cell: (cell, {}) for cell in LESSON},
    "bilstm": ("bilstm", {}),
    "linear_attention": ("linear_attention", {}),
    "lstm_block": ("lstm", BLOCK),
}
CLOZE = [case for case in CASES if case.startswith("bi")]
CAUSAL = [case for case in CASES if case not in CLOZE]


def make(case: str, vocab_size: int, **changes: object) -> LanguageModel:
    """A case's model with random weights, as a model is loaded: in evaluation mode, its weights fixed."""
    cell, own = CASES[case]
    with patch.dict(REGISTRY, {"linear_attention": LinearAttention}):
        model = build(case, model_config(cell, **(own | changes)), vocab_size)
    if isinstance(model.projection, nn.Linear) and not model.projection.weight.any():
        nn.init.normal_(model.projection.weight, std=model.projection.in_features**-0.5)  # a block's is zero at first
    model.eval().requires_grad_(False)
    assert (case in CLOZE) == objective_of(model).both_sides
    return model


def export_settings(**changes: object) -> Export:
    """`export` of params.yaml with some values replaced."""
    return override(PARAMS.export, changes)
