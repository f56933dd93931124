"""Checks where a small difference shows: at the edges of probabilities, in outputs that no token shows, in all tokens.

A uniform number beside the edge between two tokens makes either of them, if a probability moves by no more than float
error. So a few draws see what thousands of plain ones would not.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recurlm.config import Sampling
from recurlm.export.sampling import ONE, weights
from recurlm.verify.checks import FILLER, Agreement, VerificationError, filled_tokens, generated_tokens, scored_tokens
from recurlm.verify.prompts import padded
from recurlm.verify.reference import Reference, Rows
from recurlm.verify.sessions import Graphs, settings_of

MARGIN = 16  # of the float error, on which side of an edge a number must stay
ROWS_OF_HALVES = 4
SHORT, MOST_ROWS = 16, 1024  # tokens of a text and texts, of those that are scored side by side
MOST_LOGITS = 2**23  # in memory at once
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
# Each row of one call has another of these.
MIXED = (
    Sampling(temperature=0.0, top_k=0, top_p=1.0),
    Sampling(temperature=1.3, top_k=3, top_p=0.8),
    Sampling(temperature=0.6, top_k=0, top_p=1.0),
    Sampling(temperature=1.6, top_k=0, top_p=0.7),
    Sampling(temperature=1.0, top_k=12, top_p=0.9),
)


def beside_edges(
    logits: Float[Tensor, "rows vocabulary"],
    suppressed: Float[Tensor, "vocabulary"],
    uniform: Float[np.ndarray, "rows"],
    error: float | None,
) -> Float[np.ndarray, "rows"]:
    """Uniform numbers at temperature 1 that lie beside the end of the token which `uniform` draws.

    Args:
        error: of the logits; None where there is none: then nothing is nearer. In float32 a number stays as it was
            where another edge lies too near: between unlikely tokens any number is a near tie.
    """
    scaled = logits + suppressed
    cumulative = weights(scaled, scaled.amax(dim=-1, keepdim=True), scaled.shape[1]).cumsum(dim=-1)
    share = cumulative.double() / cumulative[:, -1:]
    drawn = (share <= torch.from_numpy(uniform.astype(np.float64))[:, None]).sum(dim=-1, keepdim=True)
    end = (share.gather(1, drawn.clamp(max=scaled.shape[1] - 1))[:, 0] * ONE).long().numpy()
    away = 0 if error is None else int(np.ceil(MARGIN * error * ONE))
    above = (uniform * 1000).astype(np.int64) % 2 == 0
    numbers = np.where(above, end + 1 + away, end - away).clip(0, ONE - 1)
    nearest = (share * ONE - torch.from_numpy(numbers)[:, None]).abs().amin(dim=-1).numpy()
    return np.where(nearest >= away - 1, numbers / ONE, uniform).astype(np.float32)


def drawn_beside_edges(reference: Reference, graphs: Graphs, rows: Rows, tokens: int, error: float | None) -> Agreement:
    """Compare tokens that numbers beside edges draw: `tokens` of them a row, or one at each place of a cloze model.

    Raises:
        VerificationError: one is another.
    """
    cloze = reference.objective.both_sides
    choose = partial(beside_edges, suppressed=reference.suppressed, error=error)
    uniform = np.random.default_rng(7).random((len(rows), max(map(len, rows)) if cloze else tokens), np.float32)
    if not cloze:
        return generated_tokens(reference, graphs, rows, uniform, FREE, error, choose=choose)
    for numbers, logits in zip(uniform, reference.logits(rows), strict=True):
        numbers[: len(logits)] = choose(logits, uniform=numbers[: len(logits)])
    return filled_tokens(reference, graphs, rows, uniform, FREE, error)


def every_token(reference: Reference, graphs: Graphs, tolerance: float, error: float | None) -> Agreement:
    """Read and score each token of the vocabulary: text may lack some.

    Raises:
        VerificationError: logits, states or log-probabilities differ by more than the tolerance.
    """
    size = reference.model.vocab_size
    ids = np.random.default_rng(9).permutation(size)
    count = min(size // 2, max(20, MOST_LOGITS // size))  # of short texts: steps cost more than rows
    rows: Rows = [row.astype(np.int64) for row in np.array_split(np.concatenate([ids, ids[:1]]), count)]
    scored_tokens(reference, graphs, rows, tolerance)
    agreement = Agreement()
    if not reference.objective.both_sides:
        uniform = np.random.default_rng(9).random((len(rows), 2), np.float32)
        agreement = generated_tokens(reference, graphs, rows, uniform, FREE, error, tolerance=tolerance)
    state = reference.model.initial_state(size)
    logits, after = graphs.step(ids, {name: value.numpy() for name, value in state.items()})
    expected, wanted = reference.step(torch.from_numpy(ids), state)
    alike(logits, expected, reference.tolerance(tolerance), "logits of step.onnx")
    for name, value in wanted.items():
        alike(after[name], value, reference.tolerance(tolerance), f"state {name} of step.onnx")
    return agreement


def many_texts(reference: Reference, graphs: Graphs, tolerance: float) -> None:
    """Score many short texts of random tokens, side by side, as many as memory allows.

    A last bit of some sum, or what half a step is rounded to, changes a result once in 100,000 numbers.

    Raises:
        VerificationError: a log-probability differs by more than the tolerance.
    """
    size = reference.model.vocab_size
    rows = min(MOST_ROWS, max(20, MOST_LOGITS // (SHORT * size)))
    tokens = np.random.default_rng(10).integers(0, size, (rows, SHORT))
    ids, full = torch.from_numpy(tokens), np.full(rows, SHORT)
    log_prob = torch.log_softmax(torch.stack(reference.logits(list(tokens))), dim=-1)
    found, _ = graphs.score(tokens, full)
    if not reference.objective.both_sides:
        expected = log_prob[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        return alike(found, expected, tolerance, "a log-probability of scorer.onnx")
    alike(found, log_prob.gather(2, ids[..., None])[..., 0], tolerance, "a log-probability of scorer.onnx")
    uniform = np.random.default_rng(10).random((rows, SHORT), np.float32)
    filled, scored = graphs.fill_and_score(tokens, full, uniform, FREE)
    expected = log_prob.gather(2, torch.from_numpy(filled)[..., None])[..., 0]
    return alike(scored, expected, tolerance, "a log-probability of filler.onnx")


def mixed_settings(reference: Reference, graphs: Graphs, rows: Rows, tokens: int, error: float | None) -> Agreement:
    """Compare tokens of one call whose rows have different settings.

    Raises:
        VerificationError: a token is another.
    """
    each = [MIXED[row % len(MIXED)] for row in range(len(rows))]
    cloze = reference.objective.both_sides
    time = max(map(len, rows)) if cloze else tokens
    uniform = np.random.default_rng(8).random((len(rows), time), np.float32)
    compare = filled_tokens if cloze else generated_tokens
    return compare(reference, graphs, rows, uniform, each, error)


def texts_in_parts(graphs: Graphs, prompts: Rows, uniform: Float[np.ndarray, "rows new_time"]) -> None:
    """Check generator.onnx's `length` and `next_seen`, and that a penalty goes on in a call that is given `seen`.

    Raises:
        VerificationError: an output does not tell what was drawn, or a second call does not go on as one call would.
    """
    whole, _ = _generator(graphs, prompts, uniform, {})
    half = uniform.shape[1] // 2
    first, state = _generator(graphs, prompts, uniform[:, :half], {})
    more = {"seen": first["next_seen"], **{f"state.{name}": value for name, value in state.items()}}
    second, _ = _generator(graphs, list(first["tokens"][:, -1:]), uniform[:, half:], more)
    if not np.array_equal(np.concatenate([first["tokens"], second["tokens"]], axis=1), whole["tokens"]):
        raise VerificationError("a second call that was given the first one's `seen` makes other tokens than one call")
    for row, prompt in enumerate(prompts):
        expected = np.zeros(whole["next_seen"].shape[1], bool)
        expected[prompt] = expected[whole["tokens"][row]] = True
        if not np.array_equal(whole["next_seen"][row], expected):
            raise VerificationError("`next_seen` of generator.onnx does not hold the tokens of prompt and text")
    if (whole["length"] != uniform.shape[1]).any():
        raise VerificationError("`length` of generator.onnx is not the number of new tokens")


def _generator(
    graphs: Graphs, prompts: Rows, uniform: Float[np.ndarray, "rows new_time"], more: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    tokens, lengths = padded(prompts, FILLER)
    penalty = {"repetition_penalty": np.full(1, 1.3, np.float32)}
    feeds = {
        "prompt": tokens,
        "prompt_length": lengths,
        "max_new_tokens": np.array(uniform.shape[1]),
        "uniform": uniform,
    }
    state = {name.removeprefix("state."): value for name, value in more.items() if name != "seen"}
    seen = {"seen": more["seen"]} if more else {}
    return graphs.call("generator", feeds | settings_of(FREE, len(tokens)) | penalty | seen, state or None)


def scored_in_parts(reference: Reference, graphs: Graphs, texts: Rows, tolerance: float) -> None:
    """Check the states that scorer.onnx ends with, and that it goes on from them.

    Raises:
        VerificationError: it does not.
    """
    tokens, lengths = padded(texts, FILLER)
    whole, after = graphs.score(tokens, lengths)
    expected = reference.after_prompts(texts)
    for name, value in expected.items():
        alike(after[name], value, reference.tolerance(tolerance), f"state {name} of scorer.onnx")
    text = texts[-1][None]
    half = text.shape[1] // 2
    first, state = graphs.score(text[:, :half], np.array([half]))
    second, _ = graphs.score(text[:, half - 1 :], np.array([text.shape[1] - half + 1]), state)
    parts = np.concatenate([first, second], axis=1)[0]
    if not np.abs(parts - whole[-1, : len(parts)]).max() <= tolerance:
        raise VerificationError("scorer.onnx scores a text in two parts otherwise than in one")


def halves(reference: Reference, graphs: Graphs) -> None:
    """Compare what is made of states that lie between two whole numbers of an int8 input, where rounding decides.

    Raises:
        VerificationError: a number has other bits.
    """
    assert reference.arithmetic is not None
    for index, scale in enumerate(sorted({float(x) for x in reference.arithmetic.scales()})):
        draw, state = np.random.default_rng(index), {}
        for name, shape in reference.model.recurrence.state_spec.items():
            whole = draw.integers(-100, 100, (ROWS_OF_HALVES, *shape)).astype(np.float32)
            state[name] = (whole + np.float32(0.5)) * np.float32(scale)
        rows: Rows = [np.array(pair) for pair in draw.integers(2, reference.model.vocab_size, (ROWS_OF_HALVES, 2))]
        tokens = np.stack(rows)
        torch_state = {name: torch.from_numpy(value) for name, value in state.items()}
        logits, after = graphs.step(tokens[:, 0], state)
        expected, wanted = reference.step(torch.from_numpy(np.ascontiguousarray(tokens[:, 0])), torch_state)
        alike(logits, expected, 0, "logits of step.onnx")
        results = {"step.onnx": after}
        if not reference.objective.both_sides:
            two = np.full(ROWS_OF_HALVES, 2)
            results["scorer.onnx"] = graphs.score(tokens, two, state)[1]
            numbers = np.full((ROWS_OF_HALVES, 1), 0.5, np.float32)
            results["generator.onnx"] = graphs.generate(tokens[:, :1], numbers, FREE, state)[1]
            numbers = np.full((ROWS_OF_HALVES, 1), 0.5, np.float32)
            results["generator.onnx with limits"] = graphs.generate(tokens[:, :1], numbers, MIXED[1], state)[1]
            _, later = graphs.generate(tokens, numbers, FREE, state)
            _, last = reference.step(torch.from_numpy(np.ascontiguousarray(tokens[:, 1])), wanted)
            for name, value in last.items():
                alike(later[name], value, 0, f"state {name} of generator.onnx after a prompt")
        for graph, found in results.items():
            for name, value in wanted.items():
                alike(found[name], value, 0, f"state {name} of {graph}")


def alike(found: Float[np.ndarray, "..."], expected: Float[Tensor, "..."], tolerance: float, what: str) -> None:
    """Raises a VerificationError where a number differs by more than the tolerance."""
    worst = float(np.abs(found - expected.numpy()).max())
    if not worst <= tolerance:
        raise VerificationError(f"{what} differs from PyTorch's, by {worst:.2e}")
