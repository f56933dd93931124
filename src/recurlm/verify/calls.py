"""Checks of generator.onnx against itself: in one call and in several, with a stop token, with what it has seen."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from recurlm.config import Sampling
from recurlm.verify.checks import FILLER, FREE, VerificationError
from recurlm.verify.prompts import padded
from recurlm.verify.reference import Rows
from recurlm.verify.sessions import Graphs, settings_of

CHUNKS = (1, 7, 64)  # new tokens of the first calls; the last call makes the rest
STOP_TOLERANCE = 1e-4  # of a state in a batch and alone


def stopped(graphs: Graphs, prompts: Rows, uniform: Float[np.ndarray, "rows new_time"]) -> None:
    """Check generator.onnx with a stop token in each row, one that it draws: nothing follows it.

    Raises:
        VerificationError: something does, or another token comes before it.
    """
    tokens, lengths = padded(prompts, FILLER)
    free, _ = graphs.generate(tokens, uniform, FREE, lengths=lengths)
    stops = free[np.arange(len(free)), np.arange(len(free)) % free.shape[1]]
    found, after = graphs.generate(tokens, uniform, FREE, lengths=lengths, more={"stop_token": stops})
    for row, stop in enumerate(stops):
        end = int(np.argmax(free[row] == stop)) + 1
        _, then = graphs.generate(prompts[row][None], uniform[row : row + 1, :end], FREE)
        for name, value in then.items():
            if not np.abs(value[0] - after[name][row]).max() <= STOP_TOLERANCE:
                raise VerificationError(f"the state {name} of generator.onnx moves on after a stop token")
        rest = found[row, end:]
        if not np.array_equal(found[row, :end], free[row, :end]) or (rest != -1).any():
            raise VerificationError("generator.onnx does not end where its stop token stands")


def chunked(
    graphs: Graphs, prompt: Int[np.ndarray, "time"], uniform: Float[np.ndarray, "new_time"], sampling: Sampling
) -> bool:
    """Whether several calls of generator.onnx with carried state give the tokens of one call.

    Raises:
        VerificationError: they do not.
    """
    whole, _ = graphs.generate(prompt[None], uniform[None], sampling)
    parts, state, done, read = [], None, 0, prompt[None]
    for size in (*CHUNKS, len(uniform)):
        numbers = uniform[None, done : done + size]
        if not numbers.size:
            break
        tokens, state = graphs.generate(read, numbers, sampling, state)
        parts.append(tokens)
        read, done = tokens[:, -1:], done + tokens.shape[1]
    identical = np.array_equal(np.concatenate(parts, axis=1), whole)
    if not identical:
        raise VerificationError(f"calls of {', '.join(map(str, CHUNKS))} and the rest give other tokens than one call")
    return identical


def in_parts(graphs: Graphs, prompts: Rows, uniform: Float[np.ndarray, "rows new_time"]) -> None:
    """Check generator.onnx's `length` and `next_seen`, and that a penalty goes on in a call that is given `seen`.

    Raises:
        VerificationError: an output does not tell what was drawn, or a second call does not go on as one call would.
    """
    whole, _ = _penalized(graphs, prompts, uniform, {})
    half = uniform.shape[1] // 2
    first, state = _penalized(graphs, prompts, uniform[:, :half], {})
    second, _ = _penalized(
        graphs, list(first["tokens"][:, -1:]), uniform[:, half:], {"seen": first["next_seen"]}, state
    )
    if not np.array_equal(np.concatenate([first["tokens"], second["tokens"]], axis=1), whole["tokens"]):
        raise VerificationError("a second call that was given the first one's `seen` makes other tokens than one call")
    for row, prompt in enumerate(prompts):
        expected = np.zeros(whole["next_seen"].shape[1], bool)
        expected[prompt] = expected[whole["tokens"][row]] = True
        if not np.array_equal(whole["next_seen"][row], expected):
            raise VerificationError("`next_seen` of generator.onnx does not hold the tokens of prompt and text")
    if (whole["length"] != uniform.shape[1]).any():
        raise VerificationError("`length` of generator.onnx is not the number of new tokens")


def _penalized(
    graphs: Graphs,
    prompts: Rows,
    uniform: Float[np.ndarray, "rows new_time"],
    more: dict[str, Any],
    state: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """All outputs of a call with a repetition penalty."""
    tokens, lengths = padded(prompts, FILLER)
    feeds = {
        "prompt": tokens,
        "prompt_length": lengths,
        "max_new_tokens": np.array(uniform.shape[1]),
        "uniform": uniform,
        "repetition_penalty": np.full(1, 1.3, np.float32),
    }
    return graphs.call("generator", feeds | settings_of(FREE, len(tokens)) | more, state)
