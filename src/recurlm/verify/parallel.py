"""Verify the precisions of a model in parallel, each in a process with one thread.

Most of a verification reads token by token, which a second thread does not speed up; and with one thread the results
are the same whatever the number of cores.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from recurlm import model
from recurlm.config import Evaluate, Precision, Verify
from recurlm.tokens.files import open_tokens
from recurlm.verify.agreement import verify


def verify_all(
    data: Path,
    variant: str,
    precisions: tuple[Precision, ...],
    metrics: dict[str, Any],
    settings: Verify,
    scoring: Evaluate,
) -> dict[Precision, dict[str, Any]]:
    """`verify` for the graphs of each precision, on the test split.

    Args:
        data: the folder that holds models/, tokens/ and graphs/.
        metrics: of the evaluate stage, of this model on the test split, with the settings `scoring`.

    Raises:
        VerificationError: something differs by more than float error.
    """
    context = get_context("spawn")  # a fork of a process in which torch has threads may hang
    workers = max(1, min(len(precisions), torch.get_num_threads()))
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(context.RLock(),)) as pool:
        results = [
            pool.submit(_verify_precision, data, variant, precision, metrics, settings, scoring, line)
            for line, precision in enumerate(precisions)
        ]
        try:
            return {
                precision: verification.result() for precision, verification in zip(precisions, results, strict=True)
            }
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(lock: Any) -> None:
    tqdm.set_lock(lock)  # the progress bars share a terminal
    torch.set_num_threads(1)


def _verify_precision(
    data: Path,
    variant: str,
    precision: Precision,
    metrics: dict[str, Any],
    settings: Verify,
    scoring: Evaluate,
    line: int,
) -> dict[str, Any]:
    trained = model.load(data / "models" / variant)
    test = open_tokens(data / "tokens", "test")
    return verify(variant, trained, data / "graphs" / variant / precision, test, metrics, settings, scoring, line)
