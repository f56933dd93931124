"""The PyTorch reference of every comparison."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recurlm.config import Sampling
from recurlm.export.sampling import penalize, sample, suppression
from recurlm.export.steps import keep_inactive
from recurlm.model import LanguageModel
from recurlm.objective import bidirectional, objective_of
from recurlm.variants.base import State
from recurlm.verify.quantized import QuantizedArithmetic
from recurlm.verify.sessions import padded, settings_of

MOST_NEIGHBOURS = 256  # of a state, among which one is looked for that makes a half;
NEIGHBOURS_NUMBERS = 2**21  # fewer where states are large
ROUNDS = 3  # of looking for it
SHIFTS = (-2.0, 0.0, 2.0)  # of the uniform number, in units of the float error: see `near_tie`
# (logits, suppressed, uniform) → the numbers to use; equal ones choose alike.
Choose = Callable[[Tensor, Tensor, np.ndarray[Any, Any]], Float[np.ndarray, "rows"]]
Rows = list[Int[np.ndarray, "_"]]
Method = TypeVar("Method", bound=Callable[..., Any])


def once(method: Method) -> Method:
    """Keep a method's results by the contents of its arguments: many checks, and all planted faults, ask the same."""

    @wraps(method)
    def kept(reference: Reference, *args: Any, **more: Any) -> Any:
        key = (method.__name__, _contents(args), _contents(more))
        if key not in reference.known:
            reference.known[key] = method(reference, *args, **more)
        return reference.known[key]

    return cast(Method, kept)


def _contents(value: Any) -> Any:
    """A key that two arguments have in common where they are equal; arrays by a hash of their bytes."""
    if isinstance(value, (Tensor, np.ndarray)):
        array = np.ascontiguousarray(value)
        return array.dtype.str, array.shape, hashlib.sha256(array.data).digest()
    if isinstance(value, (list, tuple)):
        return tuple(map(_contents, value))
    if isinstance(value, Extra):
        return _contents(vars(value))
    return tuple((name, _contents(part)) for name, part in value.items()) if isinstance(value, dict) else value


@dataclass(frozen=True)
class Extra:
    """What a call may ask for beyond a `Sampling`, one value a row."""

    min_p: Float[Tensor, "rows"]
    penalty: Float[Tensor, "rows"]

    def feeds(self, rows: Int[np.ndarray, "_"]) -> dict[str, np.ndarray[Any, Any]]:
        """generator.onnx's optional inputs for some of the rows."""
        return {"min_p": self.min_p.numpy()[rows], "repetition_penalty": self.penalty.numpy()[rows]}


@dataclass(frozen=True)
class Generated:
    """What PyTorch generated from several prompts, side by side."""

    prompts: Rows
    each: list[Sampling]
    extra: Extra | None
    tokens: Int[np.ndarray, "rows new_time"]
    state: State  # after the last but one
    uniform: Float[np.ndarray, "rows new_time"]  # that drew them

    def text(self, row: int, position: int) -> Int[np.ndarray, "time"]:
        """A prompt, and the new tokens before a position."""
        return np.concatenate([self.prompts[row], self.tokens[row, :position]])


class Reference:
    """A model with sampling in torch, token by token; with `arithmetic`, in the one of an int8 or int4 bundle."""

    def __init__(
        self, model: LanguageModel, suppressed: list[int], arithmetic: QuantizedArithmetic | None = None
    ) -> None:
        self.model = model
        self.objective = objective_of(model)
        self.suppressed = suppression(model.vocab_size, suppressed)
        self.arithmetic = arithmetic
        self.known: dict[Any, Any] = {}  # see `once`

    def _computing(self) -> AbstractContextManager[object]:
        return nullcontext() if self.arithmetic is None else self.arithmetic

    @once
    def step(self, token: Int[Tensor, "rows"], state: State) -> tuple[Float[Tensor, "rows vocabulary"], State]:
        return self._step(token, state)

    @once
    def forward(self, tokens: Int[Tensor, "rows time"], state: State) -> tuple[Float[Tensor, "rows time _"], State]:
        """The model's own pass over many tokens, in fp32."""
        return self.model(tokens, state)  # type: ignore[no-any-return]

    @once
    def gates(self, token: Int[Tensor, "rows"], state: State) -> State:
        """What each gate is while a token is read."""
        with self._computing():
            return self.model.recurrence.gate_activations(self.model.embed(token), state)

    def _step(self, token: Int[Tensor, "rows"], state: State) -> tuple[Float[Tensor, "rows vocabulary"], State]:
        with self._computing():
            return self.model.step(token, state)

    def draw(
        self,
        logits: Float[Tensor, "rows vocabulary"],
        uniform: Float[np.ndarray, "rows"],
        sampling: Sampling | Sequence[Sampling],
        extra: Extra | None = None,
        seen: Tensor | None = None,
    ) -> Int[Tensor, "rows"]:
        """One token a row, by one setting for all or one for each; rows that ask for no cut are not sorted."""
        numbers = {name: torch.from_numpy(value) for name, value in settings_of(sampling, len(logits)).items()}
        numbers["uniform"] = torch.from_numpy(np.ascontiguousarray(uniform))
        if extra is not None and seen is not None:
            numbers |= {"min_p": extra.min_p, "penalty": extra.penalty, "seen": seen}
        cuts = (numbers["top_k"] > 0) | (numbers["top_p"] < 1) | (numbers.get("min_p", torch.zeros(1)) > 0)
        token = torch.zeros(len(logits), dtype=torch.int64)
        for rows in (cuts, ~cuts):
            if rows.any():
                settings = {name: value[rows] for name, value in numbers.items()}
                token[rows] = sample(logits[rows], suppressed=self.suppressed, **settings)
        return token

    @once
    def generate(
        self,
        prompts: Rows,
        uniform: Float[np.ndarray, "rows new_time"],
        each: list[Sampling],
        extra: Extra | None = None,
        choose: Choose | None = None,
    ) -> Generated:
        """The tokens after prompts of any lengths.

        Args:
            choose: gives the numbers that are used, from logits and those of `uniform`.
        """
        state, last = self.after_prompts(prompts)
        uniform = uniform.copy()
        seen = torch.zeros(len(prompts), self.model.vocab_size, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            seen[row, torch.from_numpy(prompt)] = True
        token, tokens = last, []
        for numbers in uniform.T:
            logits, state = self._step(token, state)
            if choose is not None:
                numbers[:] = choose(logits, self.suppressed, numbers)
            token = self.draw(logits, numbers, each, extra, seen)
            seen[torch.arange(len(token)), token] = True
            tokens.append(token)
        return Generated(prompts, each, extra, torch.stack(tokens, dim=1).numpy(), state, uniform)

    @once
    def after_prompts(self, prompts: Rows) -> tuple[State, Int[Tensor, "rows"]]:
        """The state after all but the last token of each prompt, and that token."""
        tokens, lengths = (torch.from_numpy(value) for value in padded(prompts))
        state = self.model.initial_state(len(prompts))
        for position in range(tokens.shape[1] - 1):
            _, after = self._step(tokens[:, position], state)
            active = position < lengths - 1
            state = {name: keep_inactive(active, value, state[name]) for name, value in after.items()}
        return state, tokens.gather(1, lengths[:, None] - 1)[:, 0]

    @once
    def beside_halves(self, tokens: Int[Tensor, "rows time"], count: int) -> tuple[Int[Tensor, "found"], State]:
        """Tokens and states before them, where an input of a product lies at half a step of its scale, or nearest.

        `count` for each product: there rounding itself shows, and the last bits of what is rounded. The states are
        those of the texts, but for last bits.
        """
        nearest: dict[str, list[tuple[float, Tensor, State]]] = {}
        state = self.model.initial_state(len(tokens))
        for column in tokens.unbind(1):
            after, distances = self._distances_to_half(column, state)
            for key, distance in distances.items():
                candidates = nearest.setdefault(key, [])
                for row in distance.topk(count, largest=False).indices.tolist():
                    candidates.append((float(distance[row]), column[row], {name: x[row] for name, x in state.items()}))
                candidates.sort(key=lambda each: each[0])
                del candidates[count:]
            state = after
        every = [self._nearer(key, *each) for key, candidates in nearest.items() for each in candidates]
        states = {name: torch.stack([before[name] for _, before in every]) for name in state}
        return torch.stack([token for token, _ in every]), states

    def _distances_to_half(self, token: Int[Tensor, "rows"], state: State) -> tuple[State, dict[str, Tensor]]:
        """The states after a step; and by product, how near each row's inputs come to half a step of their scale."""
        assert self.arithmetic is not None
        distances: dict[str, Tensor] = {}

        def watch(key: str, quotient: Tensor) -> None:
            distance = torch.where(quotient.abs() < 127, (quotient - quotient.floor() - 0.5).abs(), 1.0)
            distances[key] = distance.reshape(len(token), -1).amin(dim=1)

        self.arithmetic.watch = watch
        _, after = self._step(token, state)
        self.arithmetic.watch = None
        return after, distances

    def _nearer(self, key: str, distance: float, token: Tensor, state: State) -> tuple[Tensor, State]:
        """The token, and of states that differ in their last bits the one from which a product's input lies nearest."""
        if not distance:
            return token, state
        numbers = sum(value.numel() for value in state.values())
        count = max(8, min(MOST_NEIGHBOURS, NEIGHBOURS_NUMBERS // numbers))
        draw, sizes = torch.Generator().manual_seed(round(distance * 2**24)), torch.logspace(-7.5, -4, count)
        sizes[0] = 0  # the state itself
        for _ in range(ROUNDS):
            near = {}
            for name, value in state.items():
                noise = torch.randn(count, *value.shape, generator=draw)
                near[name] = value * (1 + sizes.view(-1, *[1] * value.ndim) * noise)
            _, distances = self._distances_to_half(token.expand(count), near)
            best = int(distances[key].argmin())
            if best == 0:  # where no state is read, or a half is found
                break
            state = {name: value[best] for name, value in near.items()}
        return token, state

    @once
    def logits(self, texts: Rows, state: State | None = None) -> list[Float[Tensor, "time vocabulary"]]:
        """Of a model that predicts the next token: those after each token. Of a cloze model: those at each token.

        Args:
            state: before each text, and of a cloze model's right side behind it; left out, zeros.
        """
        if not self.objective.both_sides:
            tokens, _ = padded(texts)
            state, steps = state or self.model.initial_state(len(texts)), []
            for token in torch.from_numpy(tokens).unbind(1):
                logits, state = self._step(token, state)
                steps.append(logits)
            every = torch.stack(steps, dim=1)
            return [row[: len(text)] for row, text in zip(every, texts, strict=True)]
        state = state or self.model.initial_state(len(texts))
        left, right = self._outputs(texts, "left", state), self._outputs([text[::-1] for text in texts], "right", state)
        both = torch.cat([torch.cat([a, b.flip(0)], dim=-1) for a, b in zip(left, right, strict=True)])
        with self._computing():
            every = self.model.decode(both)
        return list(every.split([len(text) for text in texts]))  # type: ignore[no-untyped-call]

    def logits_at(self, generated: Generated, row: int, position: int) -> Float[Tensor, "vocabulary"]:
        """Those that a new token of a row was drawn from."""
        text = generated.text(row, position)
        logits = self.logits([text])[0][-1:]
        if generated.extra is None:
            return logits[0]
        seen = torch.zeros(logits.shape, dtype=torch.bool)
        seen[0, torch.from_numpy(text)] = True
        return penalize(logits, seen, generated.extra.penalty[row : row + 1])[0]

    @once
    def drawn(
        self, texts: Rows, uniform: Float[np.ndarray, "rows time"], each: list[Sampling], state: State | None = None
    ) -> Int[np.ndarray, "positions"]:
        """What a cloze model fills into each position of the texts, one after the other."""
        rows = self.logits(texts, state)
        numbers = [row[: len(logits)] for row, logits in zip(uniform, rows, strict=True)]
        settings = [sampling for sampling, logits in zip(each, rows, strict=True) for _ in logits]
        return self.draw(torch.cat(rows), np.concatenate(numbers), settings).numpy()

    @once
    def log_probs(self, texts: Rows, state: State | None = None) -> list[Float[Tensor, "scored"]]:
        """Of each token that scorer.onnx scores: all, or all but the first. `state` is that of `logits`."""
        first = 0 if self.objective.both_sides else 1
        scored = []
        for text, logits in zip(texts, self.logits(texts, state), strict=True):
            log_prob = torch.log_softmax(logits[: len(text) - first], dim=-1)
            scored.append(log_prob.gather(1, torch.from_numpy(text[first:, None]))[:, 0])
        return scored

    def _outputs(self, texts: Rows, side: str, before: State) -> list[Float[Tensor, "time output"]]:
        """A side's output before each token, as it walks over the texts."""
        recurrence = bidirectional(self.model.recurrence).directions[side]
        tokens, lengths = padded(texts)
        state = {name: before[f"{side}.{name}"] for name in recurrence.state_spec}
        output, outputs = before[f"{side}.output"], []
        for token in torch.from_numpy(tokens).unbind(1):
            outputs.append(output)
            with self._computing():
                output, state = recurrence.step(self.model.embed(token), state)
        every = torch.stack(outputs, dim=1)
        return [row[:length] for row, length in zip(every, lengths, strict=True)]

    def near_tie(
        self,
        logits: Float[Tensor, "vocabulary"],
        uniform: float,
        sampling: Sampling,
        other: int,
        error: float,
        min_p: float = 0.0,
    ) -> bool:
        """Whether torch itself might have drawn `other`, had its logits been off by no more than `error`.

        Raising one logit by ε moves probabilities by less than ε, so the uniform number is shifted by up to 2ε: what
        is drawn at one of them, or lies between what is drawn at the two ends, counts. A token that is less likely than
        the error lies between its neighbours. top_p is shifted likewise, and of logits at the end of what is kept each
        may be the last.
        """
        raised = logits.clone()
        raised[other] += 2 * error
        moved = [logits, raised, *self._ends_moved(logits, sampling, error, min_p)]
        shares = {sampling.top_p, max(sampling.top_p - 4 * error, 1e-6), min(sampling.top_p + 4 * error, 1.0)}
        numbers = np.clip([uniform + shift * error for shift in SHIFTS], 0, 1 - 2**-24).astype(np.float32)
        extra = Extra(torch.full((len(SHIFTS),), min_p), torch.ones(len(SHIFTS)))
        seen = torch.zeros(len(SHIFTS), len(logits), dtype=torch.bool)
        for row in moved:
            for share in shares:
                setting = sampling.model_copy(update={"top_p": share})
                drawn = self.draw(row.expand(len(SHIFTS), -1), numbers, setting, extra, seen)
                low, middle, high = drawn.tolist()
                if other in (low, middle, high) or (low < other < high and self._rare(row, sampling, other, error)):
                    return True
        return False

    def _ends_moved(
        self, logits: Float[Tensor, "vocabulary"], sampling: Sampling, error: float, min_p: float
    ) -> list[Float[Tensor, "vocabulary"]]:
        """The logits, with those that lie within the error of the last one kept made equal, or put in either order.

        Equal ones are all kept, of others only some: which of both it is, the last bit decides.
        """
        moved, temperature = [], max(sampling.temperature, 1e-9)
        scaled = (logits + self.suppressed).double() / temperature
        ranked = scaled.sort(descending=True).values
        share = torch.softmax(ranked[: sampling.top_k or None], dim=0).cumsum(0)
        last = min(int((share < sampling.top_p).sum()), len(share) - 1)
        ends = [float(ranked[last])] if len(share) < len(ranked) or sampling.top_p < 1 else []
        for end in [*ends, *([float(ranked[0]) + math.log(min_p)] if min_p > 0 else [])]:
            near = ((scaled - end).abs() * temperature <= 2 * error).nonzero()[:, 0]
            for values in (torch.zeros(len(near)), torch.linspace(-1, 1, len(near)), torch.linspace(1, -1, len(near))):
                moved.append(logits.clone())
                moved[-1][near] = (end * temperature + 2 * error * values).float()
        return moved

    def _rare(self, logits: Tensor, sampling: Sampling, token: int, error: float) -> bool:
        """Whether a token is less likely than the error, and none that is never drawn."""
        probability = torch.softmax((logits + self.suppressed) / max(sampling.temperature, 1e-9), dim=-1)[token]
        return bool(0 < probability <= 4 * error)
