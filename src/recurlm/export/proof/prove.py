"""All checks of one bundle, in order, and what they found."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from recurlm.config import Evaluate, Precision, Sampling, Verify
from recurlm.evaluation.perplexity import total
from recurlm.evaluation.sections import batches, cut
from recurlm.export.bundle import ROUNDING
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
from recurlm.export.proof.rounded import Rounded
from recurlm.export.proof.rounded_checks import rounded_steps, rounded_tokens
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
    line: int = 0,
) -> dict[str, Any]:
    """Compare the graphs in `folder` with the model that they were made from.

    Graphs in fp32 are the model up to float error. Those of 8 and 4 bits are the model that rounds likewise, and cost
    no more perplexity than `settings` allows.

    Args:
        held_out: the test split.
        metrics: what the evaluate stage found of this model on that split, with the settings `scoring`.
        line: of the terminal, that the bar stands on: several proofs may run side by side.

    Raises:
        ProofError: something differs by more than float error.
    """
    description = read_json(folder / "graphs.json")
    graphs, precision = Graphs(folder, torch.get_num_threads()), description["precision"]
    reference = Reference(model, description["suppressed_tokens"])
    text = np.asarray(held_out.ids[: max(settings.tokens, 256)], np.int64)
    numbers = np.random.default_rng(1).random((1 + len(settings.sampling), settings.tokens), np.float32)
    found = _nats_per_token(graphs, model.causal, held_out, scoring, f"{variant} {precision}", line)
    scorer = _check_scorer(
        found, metrics["nats_per_token" if model.causal else "pseudo_nats_per_token"], precision, settings
    )
    rounded = None if precision == "fp32" else Rounded(load_file(folder / ROUNDING))
    if rounded is None:
        difference = largest_logit_difference(reference, graphs, text, settings.logit_tolerance)
        steps = {}
    else:
        compared = rounded_steps(reference, rounded, graphs, text, settings.logit_tolerance)
        difference = compared.largest_difference
        steps = {
            "steps_compared": compared.compared,
            "steps_on_a_rounding_edge": compared.compared - compared.exact,
            "largest_difference_on_an_edge": compared.largest_on_an_edge,
        }
    # Two tokens that lie closer than this cannot be told apart in float32: see Reference.near_tie.
    error = max(difference, 1e-6)
    tallies = [
        _tokens(reference, rounded, graphs, text, numbers[index], sampling, error)
        for index, sampling in enumerate((GREEDY, *settings.sampling))
    ]
    if rounded is not None and rounded.met != {key.split(".")[1] for key in rounded.arithmetic}:
        raise ProofError("some matrix was rounded that PyTorch never read")
    if model.causal:
        for sampling in (GREEDY, *settings.sampling):
            chunked_calls(graphs, text[:PROMPT_TOKENS], numbers[0], sampling)
    return {
        "precision": precision,
        "passed": True,
        "products": description["products"],
        "largest_logit_difference": difference,
        **steps,
        **scorer,
        "greedy_tokens_identical": tallies[0].tokens - tallies[0].near_ties,
        "sampled_tokens_identical": sum(tally.tokens - tally.near_ties for tally in tallies[1:]),
        "sampling_settings": len(settings.sampling),
        "near_ties": sum(tally.near_ties for tally in tallies),
        "chunked_calls_identical": True if model.causal else None,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__.split("+")[0],
    }


def _check_scorer(found: float, expected: float, precision: Precision, settings: Verify) -> dict[str, float]:
    """scorer.onnx on the test split against PyTorch in fp32: the same, or no more perplexity than the bound allows.

    Raises:
        ProofError: it is not.
    """
    if precision == "fp32":
        if not abs(found - expected) <= settings.nats_tolerance:
            raise ProofError(
                f"scorer.onnx gives {found:.6f} nats a token and PyTorch {expected:.6f}: "
                f"more than {settings.nats_tolerance:.0e} apart"
            )
        return {"scorer_nats_per_token": found, "scorer_nats_difference": abs(found - expected)}
    loss = math.expm1(found - expected)
    bound = settings.max_perplexity_increase.int8 if precision == "int8" else settings.max_perplexity_increase.int4
    if not loss <= bound:
        raise ProofError(
            f"{precision} raises the perplexity by {loss:.2%}, and params.yaml allows {bound:.2%} "
            f"(verify.max_perplexity_increase.{precision})"
        )
    return {"scorer_nats_per_token": found, "perplexity_increase": loss}


def _tokens(
    reference: Reference,
    rounded: Rounded | None,
    graphs: Graphs,
    text: np.ndarray[Any, Any],
    uniform: np.ndarray[Any, Any],
    sampling: Sampling,
    error: float,
) -> Tally:
    # Held-out text may be shorter than the tokens asked for: then it is read again.
    read = text[:PROMPT_TOKENS] if reference.model.causal else np.resize(text, len(uniform))
    if rounded is not None:
        return rounded_tokens(reference, rounded, graphs, read, uniform, sampling, error)
    compare = generated_tokens if reference.model.causal else filled_tokens
    return compare(reference, graphs, read, uniform, sampling, error)


def _nats_per_token(
    graphs: Graphs, causal: bool, held_out: TokenFile, scoring: Evaluate, told: str, line: int
) -> float:
    sections = cut(held_out.starts, scoring.window_tokens, scoring.context_tokens, both_sides=not causal)
    terminal = sys.stderr.isatty()
    with tqdm(
        total=sections.tokens,
        desc=f"verify {told}",
        unit="token",
        unit_scale=True,
        mininterval=0.1 if terminal else 10,
        position=line if terminal else None,
    ) as bar:
        score = total(batches(held_out.ids, sections, scoring.batch_size), onnx_scorer(graphs, causal), bar.update)
    return score.nats / score.tokens
