"""The token heat map: each token's surprisal under every variant, and the recurrent states after reading it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from recurlm.errors import InputError
from recurlm.report.results import Result, Results
from recurlm.runtime import Bundle, GraphSession
from recurlm.tokens.files import open_tokens

FILE = "heat_map.json"
CONTEXT = 512  # tokens of the document that are read before the shown ones, to warm up the state
SHOWN = 240
RIGHT_CONTEXT = 256  # tokens after the shown ones that a cloze model reads as well
SUGGESTED = 8
LEVELS = 127  # an activation is stored as an integer from −127 to 127
LARGEST_STATE = 4096  # numbers of one state that are stored, so that the page stays small

Shape = tuple[int, ...]


@dataclass(frozen=True)
class StateTrace:
    """One state after each token, quantized to int8."""

    name: str
    units: int
    scale: float  # the largest absolute activation
    values: str  # base64 of int8 [token, unit]: activation / scale · 127
    suggested: list[int]  # units with a large spread and small steps: they follow something longer than a word


@dataclass(frozen=True)
class TokenTrace:
    """Surprisal and states of one variant along the tokens."""

    variant: str
    label: str  # of the objective, where its scores are pseudo-likelihoods
    unit: str  # bits | pseudo-bits
    bits: list[float]  # −log2 p of each token
    likeliest: list[str]  # the token of the highest probability at each position; empty for a cloze model
    states: list[StateTrace]


@dataclass(frozen=True)
class HeatMap:
    """The tokens as text, one trace per variant, and the problems of variants without one."""

    tokens: list[str] = field(default_factory=list)
    split: str = "validation"
    offset: int = 0  # of the first token in its document
    traces: list[TokenTrace] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read(root: Path, results: Results) -> HeatMap:
    """The heat map of one passage of the validation split, by each variant's bundle of highest precision."""
    problems: list[str] = []

    def attempted(name: str, make: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return make(*arguments)
        except (InputError, KeyError) as error:
            problems.append(f"{name}: {error}".replace(f"{root}/", ""))
            return None

    tokens = attempted("data/tokens", _passage, root / "data/tokens")
    vocabulary = results.tokens.get("tokenizer_sha256")
    opened = [(result, attempted(result.name, _bundle, result, vocabulary)) for result in results.variants]
    bundles = [(result, bundle) for result, bundle in opened if bundle]
    if tokens is None:
        return HeatMap(problems=problems)
    first = _line_start(bundles[0][1], tokens, max(1, min(CONTEXT, len(tokens) - SHOWN))) if bundles else 1
    shown = slice(first, min(first + SHOWN, len(tokens)))
    traces = [attempted(result.name, _trace, result, bundle, tokens, shown) for result, bundle in bundles]
    traces = [trace for trace in traces if trace]
    return HeatMap(_texts(bundles[0][1], tokens, shown) if traces else [], "validation", first, traces, problems)


def _bundle(result: Result, vocabulary: str | None) -> Bundle:
    bundle = Bundle.open(result.bundle.folder)
    if result.bundle.description.get("tokenizer_sha256") != vocabulary:
        raise InputError("its bundle has another vocabulary than data/tokens: export it again")
    return bundle


def _passage(folder: Path) -> list[int]:
    """The beginning of the longest validation document, `<bos>` first."""
    split = open_tokens(folder, "validation")
    lengths = np.diff(split.starts)
    if not len(lengths) or lengths.max() < 2:
        raise InputError("the validation split has no text")
    begin = int(split.starts[int(lengths.argmax())])
    ids: list[int] = split.ids[begin : begin + min(int(lengths.max()), CONTEXT + SHOWN + RIGHT_CONTEXT)].tolist()
    return ids


def _line_start(bundle: Bundle, tokens: Sequence[int], first: int) -> int:
    """The position of the next token that begins a line; `first` where no line begins soon."""
    nearby = range(first, min(first + SHOWN // 2, len(tokens)))
    return next((index for index in nearby if bundle.vocabulary.text([tokens[index - 1]]).endswith("\n")), first)


def _texts(bundle: Bundle, tokens: Sequence[int], shown: slice) -> list[str]:
    """Each token's text; a token that ends within a character is shown with the token that completes it."""
    decoder = bundle.vocabulary.decoder("", bundle.vocabulary.bos)
    texts = [decoder.feed([token]) for token in tokens[1 : shown.stop]]
    return texts[shown.start - 1 :]


def _trace(result: Result, bundle: Bundle, tokens: Sequence[int], shown: slice) -> TokenTrace:
    description = result.bundle.description
    spec = {name: tuple(shape) for name, shape in description["state_spec"].items()}
    step = bundle.session("step.onnx", {"token"}, None)
    logits, states = run_steps(step, tokens[: shown.stop])
    if right := (description.get("directions") or {}).get("right"):  # states that read from right to left
        backwards = run_steps(step, tokens[::-1])[1]
        states |= {name: backwards[name][::-1] for name in right}
    if result.objective.pseudo:
        nats, likeliest = _pseudo_nats(bundle, tokens)[shown], []
    else:
        before = logits[shown.start - 1 : shown.stop - 1].astype(np.float64)
        nats = -log_softmax(before, axis=1)[np.arange(len(before)), tokens[shown]]
        likeliest = [bundle.vocabulary.text([int(token)]) for token in before.argmax(axis=1)]
    return TokenTrace(
        variant=result.name,
        label=result.objective.label if result.objective.pseudo else "",
        unit=result.objective.unit("bits"),
        bits=[round(float(value) / float(np.log(2)), 3) for value in nats],
        likeliest=likeliest,
        states=[quantize_state(name, states[name][shown]) for name in shown_states(spec)],
    )


def run_steps(session: GraphSession, tokens: Sequence[int]) -> tuple[Any, dict[str, Any]]:
    """Logits [token, vocabulary], and each state [token, units] flattened, after every token from a zero state."""
    logits, states = [], []
    state = session.zero_state(1)
    for token in tokens:
        results, state = session.run(["logits"], {"token": np.array([token], np.int64)}, state)
        logits.append(results["logits"])
        states.append(state)
    flat = {name: np.concatenate([each[name].reshape(1, -1) for each in states]) for name in session.state_spec}
    return np.concatenate(logits), flat


def shown_states(spec: Mapping[str, Shape]) -> list[str]:
    """The first state of each layer, `layer0.h`, `layer1.h`, …: a layer's states share the name before the last dot."""
    first: dict[str, str] = {}
    for name in spec:
        layer, _, state = name.rpartition(".")
        if state != "output":  # which a side of a bidirectional model carries along, and is no memory
            first.setdefault(layer, name)
    return list(first.values())


def _pseudo_nats(bundle: Bundle, tokens: Sequence[int]) -> Any:
    """−log p of each token given the tokens on both sides."""
    scorer = bundle.session("scorer.onnx", {"tokens", "length"}, None)
    feeds = {"tokens": np.array([tokens], np.int64), "length": np.array([len(tokens)], np.int64)}
    results, _ = scorer.run(["log_prob"], feeds)
    return -results["log_prob"][0]


def quantize_state(name: str, values: Any) -> StateTrace:
    """A state [token, units] as int8 with one scale; of a larger state the first LARGEST_STATE units."""
    values = values[:, :LARGEST_STATE]
    scale = float(np.abs(values).max()) or 1.0
    levels = np.rint(values / scale * LEVELS).astype(np.int8)
    spread = values.std(axis=0)
    change = np.abs(np.diff(values, axis=0)).mean(axis=0) if len(values) > 1 else spread
    slow = np.argsort(-(spread**2) / (change + 0.05), kind="stable")
    packed = base64.b64encode(levels.tobytes()).decode()
    return StateTrace(name, values.shape[1], round(scale, 4), packed, slow[:SUGGESTED].tolist())
