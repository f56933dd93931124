"""`verify`: all checks of one bundle, in order, and their results."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from jaxtyping import Int
from safetensors.torch import load_file
from tqdm import tqdm

from recurlm.config import Evaluate, Precision, Sampling, Verify
from recurlm.evaluation.perplexity import total
from recurlm.evaluation.windows import batches, split_windows
from recurlm.export.bundle import QUANTIZED, never_drawn
from recurlm.model import LanguageModel
from recurlm.objective import Objective, objective_of
from recurlm.storage import read_json
from recurlm.tokens.files import TokenFile
from recurlm.verify.checks import (
    CHUNKS,
    GREEDY,
    Agreement,
    VerificationError,
    chunked_calls,
    equal_steps,
    extra_settings,
    few_near_ties,
    filled_tokens,
    generated_tokens,
    largest_logit_difference,
    onnx_scorer,
    scored_tokens,
    stopped_rows,
)
from recurlm.verify.edges import (
    drawn_beside_edges,
    every_token,
    halves,
    many_texts,
    mixed_settings,
    scored_in_parts,
    texts_in_parts,
)
from recurlm.verify.prompts import PROMPTS, prompts_of, texts_of
from recurlm.verify.quantized import QuantizedArithmetic
from recurlm.verify.reference import Reference, Rows
from recurlm.verify.sessions import Graphs

FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
EDGE_TOKENS = 20  # a row, beside edges and with settings of its own
ONE_NUMBER = np.zeros((PROMPTS, 1), np.float32)  # for each prompt
EXTRA_TOKENS = 40  # a row, with min_p and a repetition penalty


def verify(
    variant: str,
    model: LanguageModel,
    folder: Path,
    held_out: TokenFile,
    metrics: dict[str, Any],
    settings: Verify,
    scoring: Evaluate,
    line: int = 0,
    reference: Reference | None = None,
) -> dict[str, Any]:
    """Compare the graphs in `folder` with the model that they were made from.

    fp32 graphs equal the model up to float error. int8 and int4 graphs equal the model in their arithmetic bit for bit,
    and raise the perplexity by no more than `settings` allows.

    Args:
        held_out: the test split.
        metrics: of the evaluate stage, of this model on that split, with the settings `scoring`.
        line: of the terminal that shows the progress bar: several verifications may run in parallel.
        reference: the model, as `reference_of` gives it.

    Raises:
        VerificationError: something differs, in fp32 by more than float error.
    """
    description = read_json(folder / "graphs.json")
    graphs, precision = Graphs(folder, torch.get_num_threads()), description["precision"]
    objective = objective_of(model)
    reference = reference or reference_of(model, folder, held_out.manifest)
    arithmetic = reference.arithmetic
    text = np.asarray(held_out.ids, np.int64)
    nats = _nats_per_token(graphs, objective, held_out, scoring, f"{variant} {precision}", line)
    scorer = _check_scorer(nats, metrics[f"{objective.metric_prefix}nats_per_token"], precision, settings)
    if arithmetic is None:
        difference = largest_logit_difference(reference, graphs, text, settings.logit_tolerance)
        steps = {}
    else:
        difference = 0.0
        steps = {"steps_equal": equal_steps(reference, graphs, text)}
    # Two tokens that lie closer than this cannot be told apart in float32: see Reference.near_tie.
    error = max(difference, 1e-6) if arithmetic is None else None
    agreements, further = _agreements(reference, graphs, text, settings, error)
    prompts = prompts_of(text)
    scored_tokens(reference, graphs, prompts, settings.logit_tolerance)
    further += _edges(reference, graphs, prompts, settings, error)
    few_near_ties([*agreements, *further])
    if arithmetic is not None and arithmetic.met != {key.split(".")[1] for key in arithmetic.arithmetic}:
        raise VerificationError("a matrix was quantized that PyTorch never read")
    numbers = np.random.default_rng(2).random((len(prompts), sum(CHUNKS) + CHUNKS[-1]), np.float32)
    if not objective.both_sides:
        stopped_rows(graphs, prompts, numbers, FREE)
        for sampling in (GREEDY, *settings.sampling):
            chunked_calls(graphs, prompts[-1], numbers[0], sampling)
    ties = [tie for agreement in agreements for tie in agreement.near_ties]
    identical = [agreement.tokens - len(agreement.near_ties) for agreement in agreements]
    return {
        "precision": precision,
        "verified": True,  # each check above raises where it fails
        "products": description["products"],
        "largest_logit_difference": difference,
        **steps,
        **scorer,
        "prompts": len(prompts),
        "greedy_tokens_identical": identical[0],
        "sampled_tokens_identical": sum(identical[1:]),
        "sampling_settings": len(settings.sampling),
        "near_ties": len(ties),
        "near_ties_at": [asdict(tie) for tie in ties],
        "further_tokens": sum(agreement.tokens for agreement in further),
        "further_near_ties_at": [asdict(tie) for agreement in further for tie in agreement.near_ties],
        "chunked_calls_identical": None if objective.both_sides else True,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__.split("+")[0],
    }


def reference_of(model: LanguageModel, folder: Path, tokens: dict[str, Any]) -> Reference:
    """The model in the arithmetic of the graphs in `folder`; which tokens it never draws, data/tokens says."""
    precision = read_json(folder / "graphs.json")["precision"]
    arithmetic = None if precision == "fp32" else QuantizedArithmetic(load_file(folder / QUANTIZED), model)
    return Reference(model, never_drawn(tokens["special"], objective_of(model)), arithmetic)


def _agreements(
    reference: Reference, graphs: Graphs, text: Int[np.ndarray, "time"], settings: Verify, error: float | None
) -> tuple[list[Agreement], list[Agreement]]:
    """Tokens for each sampling setting: greedy, then those of params.yaml; and those of other settings."""
    fills = reference.objective.both_sides
    rows = texts_of(text, settings.num_tokens) if fills else prompts_of(text)
    time = max(len(row) for row in rows) if fills else math.ceil(settings.num_tokens / len(rows))
    agreements = []
    for index, sampling in enumerate((GREEDY, *settings.sampling)):
        uniform = np.random.default_rng(index).random((len(rows), time), np.float32)
        agreements.append(
            filled_tokens(reference, graphs, rows, uniform, sampling, error)
            if fills
            else generated_tokens(reference, graphs, rows, uniform, sampling, error, tolerance=settings.logit_tolerance)
        )
    if fills:
        return agreements, []
    uniform = np.random.default_rng(len(agreements)).random((len(rows), min(time, EXTRA_TOKENS)), np.float32)
    extra = extra_settings(len(rows))
    return agreements, [generated_tokens(reference, graphs, rows, uniform, FREE, error, extra)]


def _edges(
    reference: Reference, graphs: Graphs, prompts: Rows, settings: Verify, error: float | None
) -> list[Agreement]:
    tolerance = settings.logit_tolerance
    agreements = [
        # The states right after the prompts: what differs in them is forgotten after many tokens.
        generated_tokens(reference, graphs, prompts, ONE_NUMBER, GREEDY, error, tolerance=tolerance)
        if not reference.objective.both_sides
        else Agreement(),
        every_token(reference, graphs, tolerance, error),
        drawn_beside_edges(reference, graphs, prompts, EDGE_TOKENS, error),
        mixed_settings(reference, graphs, prompts, EDGE_TOKENS, error),
    ]
    many_texts(reference, graphs, tolerance)
    if reference.arithmetic is not None:
        halves(reference, graphs)
    if not reference.objective.both_sides:
        texts_in_parts(graphs, prompts, np.random.default_rng(3).random((len(prompts), EXTRA_TOKENS), np.float32))
        scored_in_parts(reference, graphs, prompts, tolerance)
    return agreements


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
