"""What a model predicts from what: the next token, or each token from both of its sides.

An objective owns all that follows from that choice: inputs and targets of a training step, the state that goes from one
window to the next, which features predict which token of a score, the names of its metrics and graphs. No other place
asks which of the two it is.

    causal      inputs   <bos> to  be  or        cloze      inputs   <bos> to <mask> or   (some inputs masked)
                targets   to   be  or  not                  targets  <bos> to   be   or
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recurlm.model import LanguageModel
from recurlm.variants.base import Recurrence, State
from recurlm.variants.compose import Bidirectional

CHUNK = 128  # tokens that a causal model reads at once, the state carried on

Tokens = Int[Tensor, "batch time"]
Rows = Int[np.ndarray, "windows time"]


class Objective(ABC):
    """See `Causal` and `Cloze`."""

    name: ClassVar[str]
    protocol: ClassVar[str]
    """Of a score: "streamed", or "cloze" for pseudo-likelihoods."""
    metric_prefix: ClassVar[str]
    both_sides: ClassVar[bool]
    """Whether a scored window needs context on its right as well."""
    graphs: ClassVar[tuple[str, ...]]
    """The graphs of a bundle; the last one draws tokens."""
    never_drawn: ClassVar[tuple[str, ...]]
    """Roles of special tokens that are no text."""

    @abstractmethod
    def inputs_and_targets(
        self, window: Int[Tensor, "batch window"], mask: int, mask_prob: float
    ) -> tuple[Tokens, Tokens]:
        """Inputs and targets of a training step; `mask` is the id of `<mask>`."""

    @abstractmethod
    def detach_state(self, model: LanguageModel, state: State) -> State:
        """The state for the next window, in fp32 and cut off from this window's graph."""

    @abstractmethod
    def predictions(
        self, model: LanguageModel, tokens: Tokens
    ) -> Iterator[tuple[slice, Float[Tensor, "batch predicted width"]]]:
        """Features that predict `tokens[:, 1:]`, from a zero state, chunk by chunk: (where in them, features)."""

    @abstractmethod
    def window_size(self, context: int) -> int:
        """Tokens of a window with one target and `context` tokens on each side that is read."""

    @abstractmethod
    def around(self, windows: Rows) -> tuple[Rows, Int[np.ndarray, "windows"], Rows]:
        """Context before the target, target, and context after it (of width 0 where none is read)."""

    @abstractmethod
    def sides(self, recurrence: Recurrence) -> dict[str, Recurrence]:
        """Prefix of a side's states → the recurrence that reads that side."""

    def state_names(self, recurrence: Recurrence) -> dict[str, list[str]]:
        """The states of each side of the text: "left", and "right" where that is read."""
        return {"left": list(recurrence.state_spec)}

    def toward_target(self, side: str, before: Tokens, after: Tokens) -> Tokens:
        """What a side reads, in its order, its last token next to the target."""
        return after.flip(1) if side == "right" else before


class Causal(Objective):
    """Predict the next token: y[t] has read x[≤ t]."""

    name = "causal"
    protocol = "streamed"
    metric_prefix = ""
    both_sides = False
    graphs = ("step.onnx", "scorer.onnx", "generator.onnx")
    never_drawn = ("mask", "unk")  # `<bos>` may be drawn: it ends a text

    def inputs_and_targets(
        self, window: Int[Tensor, "batch window"], mask: int, mask_prob: float
    ) -> tuple[Tokens, Tokens]:
        return window[:, :-1], window[:, 1:]

    def detach_state(self, model: LanguageModel, state: State) -> State:
        return {name: value.detach().float() for name, value in state.items()}

    def predictions(
        self, model: LanguageModel, tokens: Tokens
    ) -> Iterator[tuple[slice, Float[Tensor, "batch predicted width"]]]:
        state = model.initial_state(len(tokens))
        for begin in range(0, tokens.shape[1] - 1, CHUNK):
            place = slice(begin, begin + CHUNK)
            features, state = model.features(tokens[:, :-1][:, place], state)
            yield place, features

    def window_size(self, context: int) -> int:
        return context + 1

    def around(self, windows: Rows) -> tuple[Rows, Int[np.ndarray, "windows"], Rows]:
        return windows[:, :-1], windows[:, -1], windows[:, :0]

    def sides(self, recurrence: Recurrence) -> dict[str, Recurrence]:
        return {"": recurrence}


class Cloze(Objective):
    """Predict each token from all others: y[t] has read all but x[t] (Taylor 1953; scores as in Wang & Cho 2019).

    Mask filling puts masks side by side, so a model has to know masked neighbours: a share of its inputs is replaced
    by `<mask>`, as in BERT (Devlin et al. 2019). Its targets stay.
    """

    name = "cloze"
    protocol = "cloze"
    metric_prefix = "pseudo_"
    both_sides = True
    graphs = ("step.onnx", "scorer.onnx", "filler.onnx")
    never_drawn = ("bos", "mask", "unk")

    def inputs_and_targets(
        self, window: Int[Tensor, "batch window"], mask: int, mask_prob: float
    ) -> tuple[Tokens, Tokens]:
        tokens = window[:, :-1]
        masked = torch.rand(tokens.shape).to(tokens.device) < mask_prob  # drawn on the CPU: the same on any device
        return tokens.masked_fill(masked, mask), tokens

    def detach_state(self, model: LanguageModel, state: State) -> State:
        """The left side's state goes on; the right side, which comes from text yet unread, starts from zero."""
        ended = set(self.state_names(model.recurrence)["right"])
        return {
            name: torch.zeros_like(value).float() if name in ended else value.detach().float()
            for name, value in state.items()
        }

    def predictions(
        self, model: LanguageModel, tokens: Tokens
    ) -> Iterator[tuple[slice, Float[Tensor, "batch predicted width"]]]:
        features, _ = model.features(tokens, model.initial_state(len(tokens)))
        yield slice(0, tokens.shape[1] - 1), features[:, 1:]

    def window_size(self, context: int) -> int:
        return 2 * context + 1

    def around(self, windows: Rows) -> tuple[Rows, Int[np.ndarray, "windows"], Rows]:
        middle = (windows.shape[1] - 1) // 2
        return windows[:, :middle], windows[:, middle], windows[:, middle + 1 : 2 * middle + 1]

    def sides(self, recurrence: Recurrence) -> dict[str, Recurrence]:
        return bidirectional(recurrence).directions

    def state_names(self, recurrence: Recurrence) -> dict[str, list[str]]:
        both = bidirectional(recurrence)
        return {side: both.states_of(side) for side in both.directions}


OBJECTIVES: dict[str, Objective] = {objective.name: objective for objective in (Causal(), Cloze())}


def objective_of(model: LanguageModel) -> Objective:
    """A model that reads both sides predicts what is between them; any other one the next token."""
    return OBJECTIVES["cloze" if isinstance(model.recurrence, Bidirectional) else "causal"]


def bidirectional(recurrence: Recurrence) -> Bidirectional:
    """The recurrence of a cloze model."""
    assert isinstance(recurrence, Bidirectional)
    return recurrence
