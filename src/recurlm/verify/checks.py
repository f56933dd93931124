"""The checks of a verification. Each returns its measurements, or raises a VerificationError."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recurlm.config import Sampling
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import Scorer
from recurlm.evaluation.windows import Batch
from recurlm.objective import Objective
from recurlm.verify.reference import Reference
from recurlm.verify.sessions import Graphs

BATCHES = (1, 3)
TIMES = (1, 7, 64)
LEAD = 40  # tokens read first, so that the carried state is not zero
CHUNKS = (1, 7, 64)  # new tokens of the first calls; the last call makes the rest
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)


class VerificationError(InputError):
    """A bundle is not its PyTorch model: it must not ship."""


@dataclass
class Agreement:
    """Tokens compared, and those of near ties: where PyTorch is closer to the other token than float error."""

    tokens: int = 0
    near_ties: int = 0


def largest_logit_difference(
    reference: Reference, graphs: Graphs, text: Int[np.ndarray, "time"], tolerance: float
) -> float:
    """Compare logits at each batch size of BATCHES and length of TIMES, from a state that has read text.

    Raises:
        VerificationError: some logit differs by more than the tolerance.
    """
    compare = _cloze_difference if reference.objective.both_sides else _streamed_difference
    largest = 0.0
    for batch in BATCHES:
        for time in TIMES:
            # Rows of different text: each begins further on.
            rows = np.stack([np.resize(text[17 * row :], LEAD + time) for row in range(batch)])
            difference = compare(reference, graphs, rows)
            if not difference <= tolerance:
                raise VerificationError(
                    f"logits of batch {batch}, time {time} differ by {difference:.2e}, more than {tolerance:.0e}"
                )
            largest = max(largest, difference)
    return largest


def _streamed_difference(reference: Reference, graphs: Graphs, rows: Int[np.ndarray, "batch time"]) -> float:
    """Torch's fused forward over a chunk against step.onnx token by token, both from the state after LEAD tokens."""
    model = reference.model
    tokens = torch.from_numpy(rows)
    _, state = model(tokens[:, :LEAD], model.initial_state(len(rows)))
    expected, expected_state = model(tokens[:, LEAD:], state)
    onnx_state = {name: value.numpy() for name, value in state.items()}
    difference = 0.0
    for position in range(expected.shape[1]):
        logits, onnx_state = graphs.step(rows[:, LEAD + position], onnx_state)
        difference = max(difference, _largest(logits, expected[:, position]))
    return max(difference, *(_largest(onnx_state[name], value) for name, value in expected_state.items()))


def _cloze_difference(reference: Reference, graphs: Graphs, rows: Int[np.ndarray, "batch time"]) -> float:
    """Torch's forward over a text against scorer.onnx, and one step of both sides from a state that has read text."""
    model = reference.model
    tokens = torch.from_numpy(rows)
    logits, state = model(tokens, model.initial_state(len(rows)))
    expected = torch.log_softmax(logits, dim=-1).gather(2, tokens[..., None])[..., 0]
    log_prob, _ = graphs.score(rows, np.full(len(rows), rows.shape[1]))
    stepped, after = model.step(tokens[:, 0], state)
    onnx_logits, onnx_after = graphs.step(rows[:, 0], {name: value.numpy() for name, value in state.items()})
    differences = [_largest(onnx_after[name], value) for name, value in after.items()]
    return max(_largest(log_prob, expected), _largest(onnx_logits, stepped), *differences)


def _largest(value: Float[np.ndarray, "..."], expected: Float[Tensor, "..."]) -> float:
    return float(np.abs(value - expected.numpy()).max())


def generated_tokens(
    reference: Reference,
    graphs: Graphs,
    prompt: Int[np.ndarray, "time"],
    uniform: Float[np.ndarray, "new_time"],
    sampling: Sampling,
    error: float,
) -> Agreement:
    """Compare tokens of generator.onnx and PyTorch, from the same prompt and uniform numbers.

    After a near tie both continue from PyTorch's token.

    Raises:
        VerificationError: they differ, and it is no near tie.
    """
    expected, logits = reference.generate(prompt, uniform, sampling)
    agreement = Agreement(len(expected))
    done = 0
    while done < len(expected):
        so_far = np.concatenate([prompt, expected[:done]])
        tokens, _ = graphs.generate(so_far[None], uniform[None, done:], sampling)
        different = np.flatnonzero(tokens[0] != expected[done:])
        if not len(different):
            break
        first = int(different[0])
        position = done + first
        other = int(tokens[0, first])
        _count_near_tie(reference, logits[position], uniform[position], sampling, other, error, position, agreement)
        done = position + 1
    return agreement


def filled_tokens(
    reference: Reference,
    graphs: Graphs,
    text: Int[np.ndarray, "time"],
    uniform: Float[np.ndarray, "time"],
    sampling: Sampling,
    error: float,
) -> Agreement:
    """Compare tokens of filler.onnx and PyTorch at every position of a text, from the same uniform numbers.

    Raises:
        VerificationError: they differ, and it is no near tie.
    """
    logits, _ = reference.model(torch.from_numpy(text)[None], reference.model.initial_state(1))
    expected = reference.draw(logits[0], uniform, sampling).numpy()
    filled = graphs.fill(text[None], np.array([len(text)]), uniform[None], sampling)[0]
    agreement = Agreement(len(expected))
    for position in np.flatnonzero(filled != expected).tolist():
        other = int(filled[position])
        _count_near_tie(reference, logits[0, position], uniform[position], sampling, other, error, position, agreement)
    return agreement


def _count_near_tie(
    reference: Reference,
    logits: Float[Tensor, "vocabulary"],
    uniform: float,
    sampling: Sampling,
    other: int,
    error: float,
    position: int,
    agreement: Agreement,
) -> None:
    if not reference.near_tie(logits, uniform, sampling, other, error):
        raise VerificationError(
            f"token {position} is {other} in onnxruntime and another in PyTorch, and no near tie ({sampling})"
        )
    agreement.near_ties += 1


def chunked_calls(
    graphs: Graphs, prompt: Int[np.ndarray, "time"], uniform: Float[np.ndarray, "new_time"], sampling: Sampling
) -> bool:
    """Whether several calls of generator.onnx with carried state give the tokens of one call: True.

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
    if not np.array_equal(np.concatenate(parts, axis=1), whole):
        raise VerificationError(f"calls of {', '.join(map(str, CHUNKS))} and the rest give other tokens than one call")
    return True


def onnx_scorer(graphs: Graphs, objective: Objective) -> Scorer:
    """scorer.onnx as the `Scorer` of `evaluation.perplexity.total`."""

    def nats(batch: Batch) -> Float[np.ndarray, "batch predicted"]:
        log_prob, _ = graphs.score(batch.tokens, batch.length)
        return -(log_prob[:, 1:] if objective.both_sides else log_prob)

    return nats
