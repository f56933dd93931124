"""`verify`: all checks of one bundle, in order, and their results."""

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
from recurlm.evaluation.windows import batches, split_windows
from recurlm.export.bundle import QUANTIZED
from recurlm.model import LanguageModel
from recurlm.objective import Objective, objective_of
from recurlm.storage import read_json
from recurlm.tokens.files import TokenFile
from recurlm.verify.checks import (
    GREEDY,
    Agreement,
    VerificationError,
    chunked_calls,
    filled_tokens,
    generated_tokens,
    largest_logit_difference,
    onnx_scorer,
)
from recurlm.verify.quantized import QuantizedProducts
from recurlm.verify.quantized_checks import quantized_steps, quantized_tokens
from recurlm.verify.reference import Reference
from recurlm.verify.sessions import Graphs

PROMPT_TOKENS = 32


def verify(
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

    fp32 graphs equal the model up to float error. int8 and int4 graphs equal the model with quantized products, and
    raise the perplexity by no more than `settings` allows.

    Args:
        held_out: the test split.
        metrics: of the evaluate stage, of this model on that split, with the settings `scoring`.
        line: of the terminal that shows the progress bar: several verifications may run in parallel.

    Raises:
        VerificationError: something differs by more than float error.
    """
    description = read_json(folder / "graphs.json")
    graphs, precision = Graphs(folder, torch.get_num_threads()), description["precision"]
    objective = objective_of(model)
    reference = Reference(model, description["suppressed_tokens"])
    text = np.asarray(held_out.ids[: max(settings.num_tokens, 256)], np.int64)
    numbers = np.random.default_rng(1).random((1 + len(settings.sampling), settings.num_tokens), np.float32)
    nats = _nats_per_token(graphs, objective, held_out, scoring, f"{variant} {precision}", line)
    scorer = _check_scorer(nats, metrics[f"{objective.metric_prefix}nats_per_token"], precision, settings)
    quantized = None if precision == "fp32" else QuantizedProducts(load_file(folder / QUANTIZED))
    if quantized is None:
        difference = largest_logit_difference(reference, graphs, text, settings.logit_tolerance)
        steps = {}
    else:
        compared = quantized_steps(reference, quantized, graphs, text, settings.logit_tolerance)
        difference = compared.largest_difference
        steps = {
            "steps_compared": compared.compared,
            "steps_on_a_rounding_edge": compared.compared - compared.exact,
            "largest_difference_on_an_edge": compared.largest_on_an_edge,
        }
    # Two tokens that lie closer than this cannot be told apart in float32: see Reference.near_tie.
    error = max(difference, 1e-6)
    agreements = [
        _tokens(reference, quantized, graphs, text, numbers[index], sampling, error)
        for index, sampling in enumerate((GREEDY, *settings.sampling))
    ]
    if quantized is not None and quantized.met != {key.split(".")[1] for key in quantized.arithmetic}:
        raise VerificationError("a matrix was quantized that PyTorch never read")
    chunked = (
        None
        if objective.both_sides
        else [
            chunked_calls(graphs, text[:PROMPT_TOKENS], numbers[0], sampling)
            for sampling in (GREEDY, *settings.sampling)
        ]
    )
    return {
        "precision": precision,
        "verified": True,  # each check above raises where it fails
        "products": description["products"],
        "largest_logit_difference": difference,
        **steps,
        **scorer,
        "greedy_tokens_identical": agreements[0].tokens - agreements[0].near_ties,
        "sampled_tokens_identical": sum(agreement.tokens - agreement.near_ties for agreement in agreements[1:]),
        "sampling_settings": len(settings.sampling),
        "near_ties": sum(agreement.near_ties for agreement in agreements),
        "chunked_calls_identical": None if chunked is None else all(chunked),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__.split("+")[0],
    }


def _check_scorer(nats: float, expected: float, precision: Precision, settings: Verify) -> dict[str, float]:
    """scorer.onnx on the test split against PyTorch in fp32: the same, or no more perplexity than the bound allows.

    Raises:
        VerificationError: it is not.
    """
    if precision == "fp32":
        if not abs(nats - expected) <= settings.nats_tolerance:
            raise VerificationError(
                f"scorer.onnx gives {nats:.6f} nats a token and PyTorch {expected:.6f}: "
                f"more than {settings.nats_tolerance:.0e} apart"
            )
        return {"scorer_nats_per_token": nats, "scorer_nats_difference": abs(nats - expected)}
    increase = math.expm1(nats - expected)
    bound = settings.max_perplexity_increase.int8 if precision == "int8" else settings.max_perplexity_increase.int4
    if not increase <= bound:
        raise VerificationError(
            f"{precision} raises the perplexity by {increase:.2%}, and params.yaml allows {bound:.2%} "
            f"(verify.max_perplexity_increase.{precision})"
        )
    return {"scorer_nats_per_token": nats, "perplexity_increase": increase}


def _tokens(
    reference: Reference,
    quantized: QuantizedProducts | None,
    graphs: Graphs,
    text: np.ndarray[Any, Any],
    uniform: np.ndarray[Any, Any],
    sampling: Sampling,
    error: float,
) -> Agreement:
    # Held-out text may be shorter than the tokens asked for: then it is read again.
    fills = reference.objective.both_sides
    read = np.resize(text, len(uniform)) if fills else text[:PROMPT_TOKENS]
    if quantized is not None:
        return quantized_tokens(reference, quantized, graphs, read, uniform, sampling, error)
    compare = filled_tokens if fills else generated_tokens
    return compare(reference, graphs, read, uniform, sampling, error)


def _nats_per_token(
    graphs: Graphs, objective: Objective, held_out: TokenFile, scoring: Evaluate, label: str, line: int
) -> float:
    windows = split_windows(held_out.starts, scoring.window_tokens, scoring.context_tokens, objective.both_sides)
    terminal = sys.stderr.isatty()
    with tqdm(
        total=windows.tokens,
        desc=f"verify {label}",
        unit="token",
        unit_scale=True,
        mininterval=0.1 if terminal else 10,
        position=line if terminal else None,
    ) as bar:
        score = total(batches(held_out.ids, windows, scoring.batch_size), onnx_scorer(graphs, objective), bar.update)
    return score.nats / score.tokens
