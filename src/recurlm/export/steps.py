"""Modules to be traced: one token in plain tensor operations, without a loop over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recurlm.model import LanguageModel
from recurlm.objective import bidirectional
from recurlm.variants.base import State, part_of, prefixed


def keep_inactive(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new state of the active rows, and the old one of the others; states of any rank."""
    return torch.where(active[(slice(None), *[None] * (new.ndim - 1))], new, old)


class Step(nn.Module):
    """Read a token; logits of the next one, and the next state."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.names = list(model.recurrence.state_spec)

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, after = self.model.step(token, dict(zip(self.names, state, strict=True)))
        return (logits, *(after[name] for name in self.names))


class GatedStep(nn.Module):
    """Read a token, as `Step`; what its gates were when they read it comes after the logits."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.step = Step(model)
        self.names = self.step.names
        one = torch.zeros(1, dtype=torch.int64)
        self.gates = list(self._gates(one, model.initial_state(1)))

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, *after = self.step(token, *state)
        gates = self._gates(token, dict(zip(self.names, state, strict=True)))
        return (logits, *(gates[name] for name in self.gates), *after)

    def _gates(self, token: Tensor, state: State) -> State:
        return self.model.recurrence.gate_activations(self.model.embed(token), state)


class Read(nn.Module):
    """Read a token in the rows that are `active`; the others keep their state."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.step = Step(model)
        self.names = self.step.names

    def forward(self, token: Tensor, active: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        _, *after = self.step(token, *state)
        return tuple(keep_inactive(active, new, old) for new, old in zip(after, state, strict=True))


class Score(nn.Module):
    """Read a token; the log-probability of the one after it. An inactive row scores 0 and keeps its state."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.step = Step(model)
        self.names = self.step.names

    def forward(self, token: Tensor, target: Tensor, active: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, *after = self.step(token, *state)
        scored = log_prob(logits, target)
        states = (keep_inactive(active, new, old) for new, old in zip(after, state, strict=True))
        return (torch.where(active, scored, torch.zeros_like(scored)), *states)


class SideStep(nn.Module):
    """Read a token on one side of a cloze model: that side's next states, its output among them."""

    def __init__(self, model: LanguageModel, side: str) -> None:
        super().__init__()
        self.model = model
        self.side = side
        recurrence = bidirectional(model.recurrence)
        self.recurrence = recurrence.directions[side]
        self.names = recurrence.states_of(side)

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        before = part_of(self.side, dict(zip(self.names, state, strict=True)))
        before.pop("output")
        y, after = self.recurrence.step(self.model.embed(token), before)
        after = prefixed(self.side, after | {"output": y})
        return tuple(after[name] for name in self.names)


class Decode(nn.Module):
    """The outputs of both sides → logits."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.model.decode(torch.cat([left, right], dim=-1))


class FunctionModule(nn.Module):
    """A function of tensors; `constants` are given to it by name, and traced under those names."""

    def __init__(self, function: Callable[..., Any], **constants: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, *inputs: Tensor) -> Any:
        results = self.function(*inputs, **dict(self.named_buffers()))
        return tuple(results) if isinstance(results, tuple) else results


def log_prob(logits: Tensor, token: Tensor) -> Tensor:
    """The log-probability of one token a row."""
    return torch.log_softmax(logits, dim=-1).gather(1, token[:, None])[:, 0]
