"""Held-out text, token by token: how much each surprised a model, and what its hidden units held when they read it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recurlm.errors import InputError
from recurlm.report.results import Result, Results
from recurlm.runtime import Bundle, GraphSession
from recurlm.storage import to_json
from recurlm.tokens.files import open_tokens

FILE = "coloured.json"
READ = 512  # tokens of the document that are read before, to fill the state
SHOWN = 240
AFTER = 256  # tokens beyond it that a cloze model reads as well
SUGGESTED = 8
STEPS = 127  # an activation is kept as a whole number of so many


@dataclass(frozen=True)
class Layer:
    """Activations of one layer's hidden units at each token."""

    name: str
    units: int
    scale: float  # the largest; 1 stands for it
    values: str  # base64 of int8 [token, unit]: activation / scale · 127
    suggested: list[int]  # units that swing far and change slowly: they follow something longer than a word


@dataclass(frozen=True)
class Reading:
    """What one variant made of the text."""

    variant: str
    causal: bool
    bits: list[float]  # −log2 p of each token; a cloze model's are pseudo-bits
    expected: list[str]  # the likeliest token at each place; none of a cloze model's
    layers: list[Layer]


@dataclass(frozen=True)
class Coloured:
    """The tokens as text, what each variant made of them, and why others made nothing."""

    tokens: list[str]
    split: str
    first: int  # where in the document they stand
    readings: list[Reading]
    problems: list[str]


def read(root: Path, results: Results) -> Coloured:
    """Let each variant's most exact bundle read the same stretch of the validation split."""
    bundles: list[tuple[Result, Bundle]] = []
    problems = []
    vocabulary = (results.tokens or {}).get("tokenizer_sha256")
    for result in results.variants:
        try:
            bundle = Bundle.open(result.bundle_folder)
            if (result.bundle or {}).get("tokenizer_sha256") != vocabulary:
                raise InputError("its bundle has another vocabulary than data/tokens: export it again")
            bundles.append((result, bundle))
        except InputError as error:
            problems.append(f"{result.name}: {error}".replace(f"{root}/", ""))
    try:
        tokens = _stretch(root / "data/tokens")
    except (InputError, KeyError) as error:
        return Coloured([], "validation", 0, [], [f"data/tokens: {error}".replace(f"{root}/", ""), *problems])
    first = _line_start(bundles[0][1], tokens, max(1, min(READ, len(tokens) - SHOWN))) if bundles else 1
    shown = slice(first, min(first + SHOWN, len(tokens)))
    readings = []
    for result, bundle in bundles:
        try:
            readings.append(_reading(result.name, bundle, tokens, shown))
        except InputError as error:
            problems.append(f"{result.name}: {error}".replace(f"{root}/", ""))
    texts = _texts(bundles[0][1], tokens, shown) if readings else []
    return Coloured(texts, "validation", first, readings, problems)


def write(folder: Path, coloured: Coloured) -> None:
    (folder / FILE).write_text(to_json(asdict(coloured)), encoding="utf-8")


def _stretch(folder: Path) -> list[int]:
    """The start of the longest document, `<bos>` first."""
    split = open_tokens(folder, "validation")
    lengths = np.diff(split.starts)
    if not len(lengths) or lengths.max() < 2:
        raise InputError("the validation split has no text")
    begin = int(split.starts[int(lengths.argmax())])
    ids: list[int] = split.ids[begin : begin + min(int(lengths.max()), READ + SHOWN + AFTER)].tolist()
    return ids


def _line_start(bundle: Bundle, tokens: Sequence[int], first: int) -> int:
    """The next token that begins a line; `first` itself where none does soon."""
    soon = range(first, min(first + SHOWN // 2, len(tokens)))
    return next((place for place in soon if bundle.vocabulary.text([tokens[place - 1]]).endswith("\n")), first)


def _texts(bundle: Bundle, tokens: Sequence[int], shown: slice) -> list[str]:
    """Each token's text; one that ends within a character is shown with the token that ends it."""
    decoder = bundle.vocabulary.decoder("", bundle.vocabulary.bos)
    pieces = [decoder.feed([token]) for token in tokens[1 : shown.stop]]
    return pieces[shown.start - 1 :]


def _reading(name: str, bundle: Bundle, tokens: Sequence[int], shown: slice) -> Reading:
    step = bundle.session("step.onnx", {"token"}, None)
    logits, states = _walk(step, tokens[: shown.stop])
    causal = "generate" in bundle.tasks
    if causal:
        before = logits[shown.start - 1 : shown.stop - 1].astype(np.float64)
        largest = before.max(axis=1)
        total = largest + np.log(np.exp(before - largest[:, None]).sum(axis=1))
        nats = total - before[np.arange(len(before)), tokens[shown]]
        expected = [bundle.vocabulary.text([int(token)]) for token in before.argmax(axis=1)]
    else:
        nats, expected = _cloze(bundle, tokens)[shown], []
        backwards = _walk(step, tokens[::-1])[1]
        states |= {key: value[::-1] for key, value in backwards.items() if key.startswith("right.")}
    bits = [round(float(value) / float(np.log(2)), 3) for value in nats]
    hidden = [key for key in bundle.state_spec if key.endswith(".h")]
    return Reading(name, causal, bits, expected, [_layer(key, states[key][shown]) for key in hidden])


def _walk(session: GraphSession, tokens: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    """Logits [token, vocabulary] and states [token, numbers] after each token, from a zero state."""
    logits, states = [], [session.zero_state(1)]
    for token in tokens:
        results, state = session.run(["logits"], {"token": np.array([token], np.int64)}, states[-1])
        logits.append(results["logits"])
        states.append(state)
    columns = {name: np.concatenate([state[name] for state in states[1:]]) for name in session.state_spec}
    return np.concatenate(logits), columns


def _cloze(bundle: Bundle, tokens: Sequence[int]) -> Any:
    """−log p of each token after those on both of its sides."""
    scorer = bundle.session("scorer.onnx", {"tokens", "length"}, None)
    feeds = {"tokens": np.array([tokens], np.int64), "length": np.array([len(tokens)], np.int64)}
    results, _ = scorer.run(["log_prob"], feeds)
    return -results["log_prob"][0]


def _layer(name: str, values: Any) -> Layer:
    scale = float(np.abs(values).max()) or 1.0
    whole = np.rint(values / scale * STEPS).astype(np.int8)
    return Layer(
        name=name,
        units=values.shape[1],
        scale=round(scale, 4),
        values=base64.b64encode(whole.tobytes()).decode(),
        suggested=_slow(values),
    )


def _slow(values: Any) -> list[int]:
    """Units whose activation varies much, and little from one token to the next."""
    spread = values.std(axis=0)
    change = np.abs(np.diff(values, axis=0)).mean(axis=0) if len(values) > 1 else spread
    order = np.argsort(-(spread**2) / (change + 0.05), kind="stable")
    return [int(unit) for unit in order[:SUGGESTED]]
