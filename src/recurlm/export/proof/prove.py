"""All checks of one bundle, in order, and what they found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from tqdm import tqdm

from recurlm.config import Evaluate, Sampling, Verify
from recurlm.evaluation.perplexity import total
from recurlm.evaluation.sections import batches, cut
from recurlm.export.proof.checks import (
    GREEDY,
    ProofError,
    Tally,
    chunked_calls,
    filled_tokens,
    generated_tokens,
    largest_logit_difference,
    onnx_scorer,
)
from recurlm.export.proof.reference import Reference
from recurlm.export.proof.sessions import Graphs
from recurlm.model import LanguageModel
from recurlm.storage import read_json
from recurlm.tokens.files import TokenFile

PROMPT_TOKENS = 32


def prove(
    variant: str,
    model: LanguageModel,
    folder: Path,
    held_out: TokenFile,
    metrics: dict[str, Any],
    settings: Verify,
    scoring: Evaluate,
) -> dict[str, Any]:
    """Compare the graphs in `folder` with the model that they were made from.

    Args:
        held_out: the test split.
        metrics: what the evaluate stage found of this model on that split, with the settings `scoring`.

    Raises:
        ProofError: something differs by more than float error.
    """
    graphs = Graphs(folder)
    reference = Reference(model, read_json(folder / "graphs.json")["suppressed"])
    text = np.asarray(held_out.ids[: max(settings.tokens, 256)], np.int64)
    numbers = np.random.default_rng(1).random((1 + len(settings.sampling), settings.tokens), np.float32)
    difference = largest_logit_difference(reference, graphs, text, settings.logit_tolerance)
    # Two tokens that lie closer than this cannot be told apart in float32: see Reference.near_tie.
    error = max(difference, 1e-6)
    tallies = [
        _tokens(reference, graphs, text, numbers[index, :], sampling, error)
        for index, sampling in enumerate((GREEDY, *settings.sampling))
    ]
    if model.causal:
        for sampling in (GREEDY, *settings.sampling):
            chunked_calls(graphs, text[:PROMPT_TOKENS], numbers[0], sampling)
    expected = metrics["nats_per_token" if model.causal else "pseudo_nats_per_token"]
    found = _nats_per_token(graphs, model.causal, held_out, scoring, variant)
    if not abs(found - expected) <= settings.nats_tolerance:
        raise ProofError(
            f"scorer.onnx gives {found:.6f} nats a token and PyTorch {expected:.6f}: "
            f"more than {settings.nats_tolerance:.0e} apart"
        )
    return {
        "variant": variant,
        "passed": True,
        "largest_logit_difference": difference,
        "scorer_nats_per_token": found,
        "scorer_nats_difference": abs(found - expected),
        "greedy_tokens_identical": tallies[0].tokens - tallies[0].near_ties,
        "sampled_tokens_identical": sum(tally.tokens - tally.near_ties for tally in tallies[1:]),
        "sampling_settings": len(settings.sampling),
        "near_ties": sum(tally.near_ties for tally in tallies),
        "chunked_calls_identical": True if model.causal else None,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__.split("+")[0],
    }


def _tokens(
    reference: Reference,
    graphs: Graphs,
    text: np.ndarray[Any, Any],
    uniform: np.ndarray[Any, Any],
    sampling: Sampling,
    error: float,
) -> Tally:
    if reference.model.causal:
        return generated_tokens(reference, graphs, text[:PROMPT_TOKENS], uniform, sampling, error)
    # Held-out text may be shorter than the tokens asked for: then it is read again.
    return filled_tokens(reference, graphs, np.resize(text, len(uniform)), uniform, sampling, error)


def _nats_per_token(graphs: Graphs, causal: bool, held_out: TokenFile, scoring: Evaluate, variant: str) -> float:
    sections = cut(held_out.starts, scoring.section_tokens, scoring.warmup_tokens, both_sides=not causal)
    every = 0.1 if sys.stderr.isatty() else 10
    with tqdm(total=sections.tokens, desc=f"verify {variant}", unit="token", unit_scale=True, mininterval=every) as bar:
        score = total(batches(held_out.ids, sections, scoring.batch_size), onnx_scorer(graphs, causal), bar.update)
    return score.nats / score.tokens
