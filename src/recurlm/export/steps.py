"""Modules to be traced: one token in plain tensor operations, without a loop over time. States come last, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recurlm.model import LanguageModel
from recurlm.objective import bidirectional
from recurlm.variants.base import State, part_of, prefixed


class Step(nn.Module):
    """A function of tensors, and the modules that it reads. The exporter sees the function's own arguments."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.forward = forward
        for name, module in modules.items():
            self.add_module(name, module)


class FunctionModule(nn.Module):
    """A function of tensors."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        results = self.function(*inputs)
        return tuple(results) if isinstance(results, tuple) else results


def keep_inactive(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new state of the active rows, and the old one of the others; states of any rank."""
    return torch.where(active[(slice(None), *[None] * (new.ndim - 1))], new, old)


def step(model: LanguageModel) -> Step:
    """Read a token; logits of the next one, and the next state."""
    names = list(model.recurrence.state_spec)

    def function(token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, after = model.step(token, dict(zip(names, state, strict=True)))
        return (logits, *(after[name] for name in names))

    return Step(function, model=model)


def gated_step(model: LanguageModel) -> tuple[Step, list[str]]:
    """As `step`, with what each gate was when the token was read, after the logits; and the gates' names."""
    inner, names = step(model), list(model.recurrence.state_spec)

    def gates_of(token: Tensor, state: State) -> State:
        return model.recurrence.gate_activations(model.embed(token), state)

    gates = list(gates_of(torch.zeros(1, dtype=torch.int64), model.initial_state(1)))

    def function(token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, *after = inner(token, *state)
        values = gates_of(token, dict(zip(names, state, strict=True)))
        return (logits, *(values[name] for name in gates), *after)

    return Step(function, model=model, step=inner), gates


def read(model: LanguageModel) -> Step:
    """Read a token in the rows that are active; the others keep their state."""
    inner = step(model)

    def function(token: Tensor, active: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        _, *after = inner(token, *state)
        return tuple(keep_inactive(active, new, old) for new, old in zip(after, state, strict=True))

    return Step(function, step=inner)


def score(model: LanguageModel) -> Step:
    """Read a token; the log-probability of the one after it. An inactive row scores 0 and keeps its state."""
    inner = step(model)

    def function(token: Tensor, target: Tensor, active: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, *after = inner(token, *state)
        scored = log_prob(logits, target)
        states = (keep_inactive(active, new, old) for new, old in zip(after, state, strict=True))
        return (torch.where(active, scored, torch.zeros_like(scored)), *states)

    return Step(function, step=inner)


def side_step(model: LanguageModel, side: str) -> Step:
    """Read a token on one side of a cloze model: that side's next states, its output among them."""
    recurrence = bidirectional(model.recurrence)
    names, cell = recurrence.states_of(side), recurrence.directions[side]

    def function(token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        before = part_of(side, dict(zip(names, state, strict=True)))
        before.pop("output")
        y, after = cell.step(model.embed(token), before)
        after = prefixed(side, after | {"output": y})
        return tuple(after[name] for name in names)

    return Step(function, model=model)


def decode(model: LanguageModel) -> Step:
    """The outputs of both sides → logits."""
    return Step(lambda left, right: model.decode(torch.cat([left, right], dim=-1)), model=model)


def log_prob(logits: Tensor, token: Tensor) -> Tensor:
    """The log-probability of one token a row."""
    return torch.log_softmax(logits, dim=-1).gather(1, token[:, None])[:, 0]
