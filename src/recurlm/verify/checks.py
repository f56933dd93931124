"""The checks of a verification. Each returns its measurements, or raises a VerificationError."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recurlm.config import Sampling
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import Scorer
from recurlm.evaluation.windows import Batch
from recurlm.objective import Objective
from recurlm.verify.prompts import padded
from recurlm.verify.reference import Choose, Extra, Reference, Rows
from recurlm.verify.sessions import Graphs

BATCHES = (1, 3)
TIMES = (1, 7, 64)
LEAD = 40  # tokens read first, so that the carried state is not zero
CHUNKS = (1, 7, 64)  # new tokens of the first calls; the last call makes the rest
STEPS = ((8, 120), (1, 40))  # (rows, steps in each) that are compared bit for bit: 1,000 in all
FILLER = 3  # what stands behind a shorter row: a token that a graph which read it would count
LOG_PROB_TOLERANCE = 1e-4  # of filler.onnx
STOP_TOLERANCE = 1e-4  # of a state in a batch and alone
MOST_NEAR_TIES = 2e-4  # of all tokens of a verification; a single one is always let through
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)


class VerificationError(InputError):
    """A bundle is not its PyTorch model: it must not ship."""


@dataclass(frozen=True)
class NearTie:
    """A position at which float error decides between two tokens."""

    row: int
    position: int
    onnxruntime: int
    pytorch: int


@dataclass
class Agreement:
    """Tokens compared, and the near ties among them."""

    tokens: int = 0
    near_ties: list[NearTie] = field(default_factory=list)


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
    prompts: Rows,
    uniform: Float[np.ndarray, "rows new_time"],
    sampling: Sampling | Sequence[Sampling],
    error: float | None = None,
    extra: Extra | None = None,
    choose: Choose | None = None,
    tolerance: float | None = None,
) -> Agreement:
    """Compare tokens of generator.onnx and PyTorch, each from the same prompts and uniform numbers.

    Args:
        sampling: of all rows, or one for each.
        error: of the logits; None where there is none. After a near tie both continue from PyTorch's token.
        choose: see `Reference.generate`.
        tolerance: of the states after the last token; None where they need not be compared, having errors.

    Raises:
        VerificationError: they differ, and it is no near tie; or the states after them differ.
    """
    expected = reference.generate(prompts, uniform, sampling, extra, choose)
    uniform, each = expected.uniform, [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    agreement = Agreement(expected.tokens.size)
    done = np.zeros(len(prompts), np.int64)  # tokens that were compared
    rows = np.arange(len(prompts))
    while len(rows):
        texts = [np.concatenate([prompts[row], expected.tokens[row, : done[row]]]) for row in rows]
        left = uniform.shape[1] - done[rows]
        numbers = np.zeros((len(rows), int(left.max())), np.float32)
        for numbers_of_row, row in zip(numbers, rows, strict=True):
            numbers_of_row[: uniform.shape[1] - done[row]] = uniform[row, done[row] :]
        tokens, after = graphs.generate(
            padded(texts, FILLER)[0],
            numbers,
            [each[row] for row in rows],
            lengths=np.array([len(text) for text in texts], np.int64),
            more={} if extra is None else extra.feeds(rows),
        )
        differ = []
        for line, row in enumerate(rows):
            pairs = tokens[line, : left[line]] != expected.tokens[row, done[row] :]
            if not pairs.any():
                continue
            position = int(done[row] + np.argmax(pairs))
            tie = NearTie(int(row), position, int(tokens[line, np.argmax(pairs)]), int(expected.tokens[row, position]))
            _excuse(reference, expected.logits[row, position], uniform[row, position], each[row], tie, error, agreement)
            done[row] = position + 1
            if done[row] < uniform.shape[1]:
                differ.append(row)
        if error is None or tolerance is not None:
            # A row of which fewer tokens were left has read more than them since.
            whole = left == numbers.shape[1]
            same = [
                line
                for line, row in enumerate(rows)
                if whole[line] and row not in differ and done[row] < uniform.shape[1]
            ]
            _check_states(after, expected.state, rows, same, 0.0 if error is None else tolerance or 0.0)
        rows = np.array(differ, np.int64)
    return agreement


def _check_states(
    after: dict[str, Any], expected: dict[str, Tensor], rows: Int[np.ndarray, "_"], same: list[int], tolerance: float
) -> None:
    """Compare the states of those lines of a call whose tokens were all the same."""
    for name, value in expected.items():
        difference = np.abs(after[name][same] - value.numpy()[rows[same]]).max(initial=0.0)
        if not difference <= tolerance:
            raise VerificationError(f"state {name} after the last token differs from PyTorch's, by {difference:.2e}")


def filled_tokens(
    reference: Reference,
    graphs: Graphs,
    texts: Rows,
    uniform: Float[np.ndarray, "rows time"],
    sampling: Sampling | Sequence[Sampling],
    error: float | None = None,
) -> Agreement:
    """Compare tokens of filler.onnx and PyTorch at every position of some texts, from the same uniform numbers.

    Raises:
        VerificationError: they differ, and it is no near tie; or the log-probability of one is another's.
    """
    each = [sampling] * len(texts) if isinstance(sampling, Sampling) else sampling
    tokens, lengths = padded(texts, FILLER)
    filled, log_prob = graphs.fill_and_score(tokens, lengths, uniform[:, : tokens.shape[1]], each)
    agreement = Agreement(int(lengths.sum()))
    for row, logits in enumerate(reference.logits(texts)):
        numbers = uniform[row, : len(logits)]
        expected = reference.draw(logits, numbers, each[row]).numpy()
        scored = torch.log_softmax(logits, dim=-1).gather(1, torch.from_numpy(filled[row, : len(logits), None]))[:, 0]
        if not np.abs(log_prob[row, : len(logits)] - scored.numpy()).max() <= LOG_PROB_TOLERANCE:
            raise VerificationError("filler.onnx gives another log-probability than that of the token which it drew")
        for position in np.flatnonzero(filled[row, : len(logits)] != expected).tolist():
            tie = NearTie(row, position, int(filled[row, position]), int(expected[position]))
            _excuse(reference, logits[position], numbers[position], each[row], tie, error, agreement)
    return agreement


def _excuse(
    reference: Reference,
    logits: Float[Tensor, "vocabulary"],
    uniform: float,
    sampling: Sampling,
    tie: NearTie,
    error: float | None,
    agreement: Agreement,
) -> None:
    if error is None or not reference.near_tie(logits, uniform, sampling, tie.onnxruntime, error):
        raise VerificationError(
            f"token {tie.position} of row {tie.row} is {tie.onnxruntime} in onnxruntime and {tie.pytorch} in PyTorch"
            f"{'' if error is None else ', and no near tie'} ({sampling})"
        )
    agreement.near_ties.append(tie)


def few_near_ties(agreements: list[Agreement]) -> None:
    """Check that near ties are rare among all tokens that were compared.

    Raises:
        VerificationError: they are more than MOST_NEAR_TIES.
    """
    tokens, ties = (sum(counts) for counts in zip(*((a.tokens, len(a.near_ties)) for a in agreements), strict=True))
    if ties > max(1, tokens * MOST_NEAR_TIES):
        raise VerificationError(f"{ties} of {tokens} tokens are near ties, more than 2 in 10,000")


def scored_tokens(reference: Reference, graphs: Graphs, texts: Rows, tolerance: float) -> float:
    """Compare scorer.onnx's log-probabilities with those of PyTorch's logits; returns the largest difference.

    Raises:
        VerificationError: one differs by more than the tolerance.
    """
    tokens, lengths = padded(texts, FILLER)
    found, _ = graphs.score(tokens, lengths)
    largest = 0.0
    for row, (text, logits) in enumerate(zip(texts, reference.logits(texts), strict=True)):
        log_prob = torch.log_softmax(logits, dim=-1)
        if reference.objective.both_sides:
            expected = log_prob.gather(1, torch.from_numpy(text)[:, None])[:, 0]
        else:
            expected = log_prob[:-1].gather(1, torch.from_numpy(text)[1:, None])[:, 0]
        same = found[row, : len(expected)]
        largest = max(largest, float(np.abs(same - expected.numpy()).max(initial=0.0)))
        if found[row, len(expected) :].any():
            raise VerificationError("scorer.onnx scores what stands behind a text's end")
    if not largest <= tolerance:
        raise VerificationError(f"log-probabilities of scorer.onnx differ by {largest:.2e}, more than {tolerance:.0e}")
    return largest


def equal_steps(reference: Reference, graphs: Graphs, text: Int[np.ndarray, "time"]) -> int:
    """Read text by step.onnx and by PyTorch, each from its own states, and return the number of steps: all are equal.

    Raises:
        VerificationError: a logit or a number of a state has other bits.
    """
    steps = 0
    for rows, time in STEPS:
        tokens = np.stack([np.resize(text[17 * row :], time) for row in range(rows)])
        state = reference.model.initial_state(rows)
        onnx_state = {name: value.numpy() for name, value in state.items()}
        for token in tokens.T:
            expected, state = reference.step(torch.from_numpy(np.ascontiguousarray(token)), state)
            logits, onnx_state = graphs.step(token, onnx_state)
            pairs = {"logits": (logits, expected)} | {name: (onnx_state[name], state[name]) for name in state}
            for name, (found, wanted) in pairs.items():
                if not np.array_equal(found, wanted.numpy()):
                    worst = float(np.abs(found - wanted.numpy()).max())
                    raise VerificationError(f"{name} after step {steps // rows} differs from PyTorch's, by {worst:.2e}")
            steps += rows
    return steps


def extra_settings(rows: int) -> Extra:
    """Values of min_p and of the repetition penalty, other ones in each row."""
    return Extra(torch.linspace(0, 0.2, rows), torch.linspace(1, 1.5, rows).flip(0))


def stopped_rows(
    graphs: Graphs, prompts: Rows, uniform: Float[np.ndarray, "rows new_time"], sampling: Sampling
) -> None:
    """Check generator.onnx with a stop token in each row, one that it draws: nothing follows it.

    Raises:
        VerificationError: something does, or another token comes before it.
    """
    tokens, lengths = padded(prompts, FILLER)
    free, _ = graphs.generate(tokens, uniform, sampling, lengths=lengths)
    stops = free[np.arange(len(free)), np.arange(len(free)) % free.shape[1]]
    found, after = graphs.generate(tokens, uniform, sampling, lengths=lengths, more={"stop_token": stops})
    for row, stop in enumerate(stops):
        end = int(np.argmax(free[row] == stop)) + 1
        _, then = graphs.generate(prompts[row][None], uniform[row : row + 1, :end], sampling)
        for name, value in then.items():
            if not np.abs(value[0] - after[name][row]).max() <= STOP_TOLERANCE:
                raise VerificationError(f"the state {name} of generator.onnx moves on after a stop token")
        rest = found[row, end:]
        if not np.array_equal(found[row, :end], free[row, :end]) or (rest != -1).any():
            raise VerificationError("generator.onnx does not end where its stop token stands")


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
