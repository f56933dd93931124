"""The comparisons that a verification consists of: a model in PyTorch beside its graphs in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recurlm.config import Sampling
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import Scorer
from recurlm.evaluation.windows import Batch
from recurlm.objective import Objective
from recurlm.variants.base import State
from recurlm.verify.reference import Choose, Extra, Generated, Reference, Rows
from recurlm.verify.sessions import Graphs, padded

BATCHES = (1, 3)
TIMES = (1, 7, 64)
LEAD = 40  # tokens read first, so that the carried state is not zero
STEPS = ((8, 120), (1, 40))  # (rows, steps in each) that are compared bit for bit: 1,000 in all
FILLER = 3  # what stands behind a shorter row: a token that a graph which read it would count
EXACT_LOG_PROB = 2e-5  # of a log-probability whose logits are equal: the last bits of log-sum-exp
MOST_NEAR_TIES = 2e-4  # of all tokens of a verification; a single one is always let through
CHUNKS = (1, 7, 64)  # new tokens of the first calls; the last call makes the rest
STOP_TOLERANCE = 1e-4  # of a state in a batch and alone, in fp32
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)


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


def few_near_ties(agreements: Sequence[Agreement]) -> None:
    """Check that near ties are rare among all tokens that were compared."""
    tokens, ties = sum(a.tokens for a in agreements), sum(len(a.near_ties) for a in agreements)
    if ties > max(1, tokens * MOST_NEAR_TIES):
        raise VerificationError(f"{ties} of {tokens} tokens are near ties, more than 2 in 10,000")


def alike(found: Float[np.ndarray, "..."], expected: Float[Tensor, "..."], tolerance: float, what: str) -> float:
    """The largest difference."""
    worst = float(np.abs(found - expected.numpy()).max(initial=0.0))
    if not worst <= tolerance:
        raise VerificationError(f"{what} differs from PyTorch's, by {worst:.2e}, more than {tolerance:.0e}")
    return worst


class Comparison:
    """A model and its graphs: each method raises a VerificationError where they differ.

    With a reference in the arithmetic of int8 or int4, tokens, logits and states are equal, bit for bit.
    """

    def __init__(
        self, reference: Reference, graphs: Graphs, tolerance: float = 1e-4, error: float | None = None
    ) -> None:
        """Below fp32 both limits are 0.

        Args:
            tolerance: of logits, states and log-probabilities in fp32.
            error: that was measured of the logits. Tokens whose logits are nearer cannot be told apart.
        """
        self.reference, self.graphs = reference, graphs
        self.exact, self.cloze = reference.arithmetic is not None, reference.objective.both_sides
        self.tolerance = 0.0 if self.exact else tolerance
        self.log_prob_tolerance = EXACT_LOG_PROB if self.exact else tolerance
        self.error = None if self.exact else error
        self.stop_tolerance = 0.0 if self.exact else STOP_TOLERANCE

    def states(self, found: dict[str, Any], expected: dict[str, Tensor], what: str) -> float:
        return max(alike(found[name], value, self.tolerance, f"{name} {what}") for name, value in expected.items())

    def logits(self, text: Int[np.ndarray, "time"]) -> float:
        """fp32's largest difference, at each batch size of BATCHES and length of TIMES, from states that have read."""
        compare = self._both_sides if self.cloze else self._streamed
        return max(
            # Rows of different text: each begins further on.
            compare(np.stack([np.resize(text[17 * row :], LEAD + time) for row in range(batch)]))
            for batch in BATCHES
            for time in TIMES
        )

    def _streamed(self, rows: Int[np.ndarray, "batch time"]) -> float:
        """Torch's fused forward over a chunk against step.onnx, both from the state after LEAD tokens."""
        tokens, worst = torch.from_numpy(rows), 0.0
        _, state = self.reference.forward(tokens[:, :LEAD], self.reference.model.initial_state(len(rows)))
        expected, expected_state = self.reference.forward(tokens[:, LEAD:], state)
        onnx_state = _arrays(state)
        for token, wanted in zip(rows[:, LEAD:].T, expected.unbind(1), strict=True):
            logits, onnx_state = self.graphs.step(token, onnx_state)
            worst = max(worst, alike(logits, wanted, self.tolerance, "a logit of step.onnx"))
        worst = max(worst, self.states(onnx_state, expected_state, f"after {expected.shape[1]} steps"))
        return max(worst, self.step(rows[:, -1], expected_state))

    def _both_sides(self, rows: Int[np.ndarray, "batch time"]) -> float:
        """Torch's forward over a text against scorer.onnx, and one step of both sides from a state that has read."""
        tokens = torch.from_numpy(rows)
        logits, state = self.reference.forward(tokens, self.reference.model.initial_state(len(rows)))
        expected = torch.log_softmax(logits, dim=-1).gather(2, tokens[..., None])[..., 0]
        log_prob, _ = self.graphs.score(rows, np.full(len(rows), rows.shape[1]))
        worst = alike(log_prob, expected, self.tolerance, "a log-probability of scorer.onnx")
        return max(worst, self.step(rows[:, 0], state))

    def step(self, token: Int[np.ndarray, "rows"], state: dict[str, Tensor]) -> float:
        """One step of step.onnx from given states: the largest difference."""
        expected, wanted = self.reference.step(torch.from_numpy(np.ascontiguousarray(token)), state)
        results, after = self.graphs.call("step", {"token": token}, _arrays(state))
        worst = alike(results.pop("logits"), expected, self.tolerance, "a logit of step.onnx")
        gates = self.reference.gates(torch.from_numpy(np.ascontiguousarray(token)), state)
        if results.keys() != {f"gate.{name}" for name in gates}:
            raise VerificationError(f"step.onnx has the outputs {sorted(results)} beside logits and states")
        for name, value in gates.items():
            worst = max(worst, alike(results[f"gate.{name}"], value, self.tolerance, f"the gate {name} of step.onnx"))
        return max(worst, self.states(after, wanted, "after a step"))

    def steps(self, text: Int[np.ndarray, "time"]) -> int:
        """Read text by step.onnx and by PyTorch, each from its own states; returns the number of steps."""
        steps = 0
        for rows, time in STEPS:
            tokens = np.stack([np.resize(text[17 * row :], time) for row in range(rows)])
            state = self.reference.model.initial_state(rows)
            onnx_state = _arrays(state)
            for token in tokens.T:
                expected, state = self.reference.step(torch.from_numpy(np.ascontiguousarray(token)), state)
                logits, onnx_state = self.graphs.step(token, onnx_state)
                alike(logits, expected, self.tolerance, f"a logit of step {steps // rows}")
                self.states(onnx_state, state, f"after step {steps // rows}")
                steps += rows
        return steps

    def generated(
        self,
        prompts: Rows,
        uniform: Float[np.ndarray, "rows new_time"],
        sampling: Sampling | Sequence[Sampling],
        extra: Extra | None = None,
        choose: Choose | None = None,
        calls: Sequence[Sequence[int]] | None = None,
    ) -> Agreement:
        """Tokens of generator.onnx and PyTorch, each from the same prompts and uniform numbers; and the states after.

        After a near tie both continue from PyTorch's token.

        Args:
            sampling: of all rows, or one for each.
            choose: see `Reference.generate`.
            calls: the rows of each call of generator.onnx; left out, one call has all.
        """
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        expected = self.reference.generate(prompts, uniform, each, extra, choose)
        agreement = Agreement(expected.tokens.size)
        for rows in calls or [range(len(prompts))]:
            self._compare(expected, np.array(rows, np.int64), agreement)
        return agreement

    def _compare(self, expected: Generated, rows: Int[np.ndarray, "_"], agreement: Agreement) -> None:
        """One call of generator.onnx for some rows; those that meet a near tie go on in further calls."""
        time = expected.tokens.shape[1]
        done = dict.fromkeys(rows.tolist(), 0)  # tokens that were compared
        while len(rows):
            tokens, after = self._call(expected, rows, done)
            differ, whole = [], []
            for line, row in enumerate(rows.tolist()):
                wanted = expected.tokens[row, done[row] :]
                unlike = np.flatnonzero(tokens[line, : len(wanted)] != wanted)
                if unlike.size:
                    position = done[row] + int(unlike[0])
                    tie = NearTie(row, position, int(tokens[line, unlike[0]]), int(wanted[unlike[0]]))
                    logits = None if self.exact else self.reference.logits_at(expected, row, position)
                    uniform = float(expected.uniform[row, position])
                    min_p = 0.0 if expected.extra is None else float(expected.extra.min_p[row])
                    self.excuse(tie, logits, uniform, expected.each[row], agreement, min_p)
                    done[row] = position + 1
                    differ += [row] if done[row] < time else []
                elif len(wanted) == tokens.shape[1]:  # a row of which fewer tokens were left has read more since
                    whole.append(line)
            states = {name: value[rows[whole]] for name, value in expected.state.items()}
            self.states({name: value[whole] for name, value in after.items()}, states, "after the last token")
            rows = np.array(differ, np.int64)

    def _call(
        self, expected: Generated, rows: Int[np.ndarray, "_"], done: dict[int, int]
    ) -> tuple[Int[np.ndarray, "_ new_time"], dict[str, Any]]:
        prompts, lengths = padded([expected.text(row, done[row]) for row in rows], FILLER)
        numbers = [expected.uniform[row, done[row] :] for row in rows]
        uniform = np.zeros((len(rows), max(map(len, numbers))), np.float32)
        for line, left in zip(uniform, numbers, strict=True):
            line[: len(left)] = left
        more = {} if expected.extra is None else expected.extra.feeds(rows)
        each = [expected.each[row] for row in rows]
        results, after = self.graphs.generate(prompts, uniform, each, lengths=lengths, more=more)
        return results["tokens"], after

    def filled(
        self,
        texts: Rows,
        uniform: Float[np.ndarray, "rows time"],
        sampling: Sampling | Sequence[Sampling],
        state: State | None = None,
    ) -> Agreement:
        """Tokens of filler.onnx and PyTorch at every position of some texts, and their log-probabilities.

        Args:
            state: at both ends of each text; left out, zeros.
        """
        each = [sampling] * len(texts) if isinstance(sampling, Sampling) else list(sampling)
        tokens, lengths = padded(texts, FILLER)
        uniform = uniform[:, : tokens.shape[1]]
        filled, log_prob, _ = self.graphs.fill(tokens, lengths, uniform, each, _arrays(state))
        inside = np.arange(tokens.shape[1]) < lengths[:, None]
        found, logits = filled[inside], torch.cat(self.reference.logits(texts, state))
        scored = torch.log_softmax(logits, dim=-1).gather(1, torch.from_numpy(found[:, None]))[:, 0]
        alike(log_prob[inside], scored, self.log_prob_tolerance, "a log-probability of filler.onnx")
        agreement, expected = Agreement(found.size), self.reference.drawn(texts, uniform, each, state)
        for place in np.flatnonzero(found != expected).tolist():
            row, position = np.argwhere(inside)[place].tolist()
            tie = NearTie(row, position, int(found[place]), int(expected[place]))
            self.excuse(tie, logits[place], float(uniform[row, position]), each[row], agreement)
        return agreement

    def excuse(
        self,
        tie: NearTie,
        logits: Tensor | None,
        uniform: float,
        sampling: Sampling,
        agreement: Agreement,
        min_p: float = 0.0,
    ) -> None:
        """Count a difference as a near tie, if it is one."""
        if self.error is None or logits is None:
            near = False
        else:
            near = self.reference.near_tie(logits, uniform, sampling, tie.onnxruntime, self.error, min_p)
        if not near:
            raise VerificationError(
                f"token {tie.position} of row {tie.row} is {tie.onnxruntime} in onnxruntime and {tie.pytorch} in "
                f"PyTorch{'' if self.error is None else ', and no near tie'} ({sampling})"
            )
        agreement.near_ties.append(tie)

    def scored(self, texts: Rows, state: State | None = None) -> float:
        """Log-probabilities of scorer.onnx: the largest difference. `state` is that of `Reference.logits`."""
        found, _ = self.graphs.score(*padded(texts, FILLER), _arrays(state))
        worst, what = 0.0, "a log-probability of scorer.onnx"
        for row, expected in zip(found, self.reference.log_probs(texts, state), strict=True):
            worst = max(worst, alike(row[: len(expected)], expected, self.log_prob_tolerance, what))
            if row[len(expected) :].any():
                raise VerificationError("scorer.onnx scores what stands behind a text's end")
        return worst

    def scored_in_parts(self, texts: Rows) -> None:
        """The states that scorer.onnx ends with; and it goes on from them."""
        whole, after = self.graphs.score(*padded(texts, FILLER))
        self.states(after, self.reference.after_prompts(texts)[0], "of scorer.onnx")
        text = texts[-1][None]
        half = text.shape[1] // 2
        first, state = self.graphs.score(text[:, :half], np.array([half]))
        second, _ = self.graphs.score(text[:, half - 1 :], np.array([text.shape[1] - half + 1]), state)
        parts = np.concatenate([first, second], axis=1)[0]
        if not np.abs(parts - whole[-1, : len(parts)]).max() <= self.log_prob_tolerance:
            raise VerificationError("scorer.onnx scores a text in two parts otherwise than in one")


# generator.onnx against itself: in one call and in several, with a stop token, with what it has seen.


def stopped(graphs: Graphs, prompts: Rows, uniform: Float[np.ndarray, "rows new_time"], tolerance: float) -> None:
    """Check generator.onnx with a stop token in each row, one that it draws: nothing follows it.

    Args:
        tolerance: of a state in a batch and alone.
    """
    tokens, lengths = padded(prompts, FILLER)
    free = graphs.generate(tokens, uniform, FREE, lengths=lengths)[0]["tokens"]
    stops = free[np.arange(len(free)), np.arange(len(free)) % free.shape[1]]
    results, after = graphs.generate(tokens, uniform, FREE, lengths=lengths, more={"stop_token": stops})
    for row, stop in enumerate(stops):
        end = int(np.argmax(free[row] == stop)) + 1
        _, then = graphs.generate(prompts[row][None], uniform[row : row + 1, :end], FREE)
        for name, value in then.items():
            if not np.abs(value[0] - after[name][row]).max() <= tolerance:
                raise VerificationError(f"the state {name} of generator.onnx moves on after a stop token")
        tokens_of_row = results["tokens"][row]
        if not np.array_equal(tokens_of_row[:end], free[row, :end]) or (tokens_of_row[end:] != -1).any():
            raise VerificationError("generator.onnx does not end where its stop token stands")
        if results["length"][row] != end:
            raise VerificationError("`length` of generator.onnx is not the number of tokens up to the stop token")
        _has_seen(results["next_seen"][row], prompts[row], free[row, :end])


def _has_seen(seen: Bool[np.ndarray, "vocabulary"], *read: Int[np.ndarray, "_"]) -> None:
    expected = np.zeros(len(seen), bool)
    expected[np.concatenate(read)] = True
    if not np.array_equal(seen, expected):
        raise VerificationError("`next_seen` of generator.onnx does not hold the tokens of prompt and text")


def chunked(
    graphs: Graphs, prompt: Int[np.ndarray, "time"], uniform: Float[np.ndarray, "new_time"], sampling: Sampling
) -> bool:
    """Whether several calls of generator.onnx with carried state give the tokens of one call; they must."""
    whole, _ = graphs.generate(prompt[None], uniform[None], sampling)
    parts, state, done, read = [], None, 0, prompt[None]
    for size in (*CHUNKS, len(uniform)):
        numbers = uniform[None, done : done + size]
        if not numbers.size:
            break
        results, state = graphs.generate(read, numbers, sampling, state)
        parts.append(results["tokens"])
        read, done = parts[-1][:, -1:], done + numbers.shape[1]
    identical = np.array_equal(np.concatenate(parts, axis=1), whole["tokens"])
    if not identical:
        raise VerificationError(f"calls of {', '.join(map(str, CHUNKS))} and the rest give other tokens than one call")
    return identical


def in_parts(graphs: Graphs, prompts: Rows, uniform: Float[np.ndarray, "rows new_time"]) -> None:
    """Check generator.onnx's `length` and `next_seen`, and that a penalty goes on in a call that is given `seen`."""
    tokens, lengths = padded(prompts, FILLER)
    penalty, half = {"repetition_penalty": np.full(1, 1.3, np.float32)}, uniform.shape[1] // 2
    whole, _ = graphs.generate(tokens, uniform, FREE, lengths=lengths, more=penalty)
    first, state = graphs.generate(tokens, uniform[:, :half], FREE, lengths=lengths, more=penalty)
    penalty["seen"] = first["next_seen"]
    second, _ = graphs.generate(first["tokens"][:, -1:], uniform[:, half:], FREE, state, more=penalty)
    if not np.array_equal(np.concatenate([first["tokens"], second["tokens"]], axis=1), whole["tokens"]):
        raise VerificationError("a second call that was given the first one's `seen` makes other tokens than one call")
    for row, prompt in enumerate(prompts):
        _has_seen(whole["next_seen"][row], prompt, whole["tokens"][row])
    if (whole["length"] != uniform.shape[1]).any():
        raise VerificationError("`length` of generator.onnx is not the number of new tokens")


def _arrays(state: State | None) -> Any:
    return None if state is None else {name: value.numpy() for name, value in state.items()}


def onnx_scorer(graphs: Graphs, objective: Objective) -> Scorer:
    """scorer.onnx as the `Scorer` of `evaluation.perplexity.total`."""

    def nats(batch: Batch) -> Float[np.ndarray, "batch predicted"]:
        log_prob, _ = graphs.score(batch.tokens, batch.length)
        return -(log_prob[:, 1:] if objective.both_sides else log_prob)

    return nats
