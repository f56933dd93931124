"""A bidirectional LSTM that does not cheat: it never sees the token that it predicts.

Two stacks run over the text, one from the left and one from the right, and neither reads the other:

    text            to     be     or     not    to     be
    from the left   ───►───►───►───┐
    from the right                 │      ┌───◄───◄───
    prediction                     └─ ?? ─┘

The output at t joins what the left stack knows after t−1 to what the right stack knows after t+1: twice the hidden
size, and nothing of t itself. It is a cloze model, and fills blanks; it cannot generate from left to right.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recurlm.variants.base import Recurrence, State, joined
from recurlm.variants.lstm import LSTM


class BiLSTM(Recurrence):
    """Two LSTM stacks, one a direction (Schuster & Paliwal 1997; kept apart as in Mousa & Schuller 2017).

    The states `left.*` belong to the left edge of a chunk and `right.*` to its right edge. `forward` returns the left
    stack's state after the chunk's last element, and the right stack's state after its first: the states with which
    the chunk to the right, or to the left, goes on.
    """

    gates = 3
    causal = False

    def __init__(
        self, input_size: int, hidden_size: int, layers: int = 1, dropout: float = 0.0, concat_layers: bool = False
    ) -> None:
        super().__init__()
        self.left = LSTM(input_size, hidden_size, layers, dropout, concat_layers)
        self.right = LSTM(input_size, hidden_size, layers, dropout, concat_layers)
        self.output_size = 2 * self.left.output_size
        self.state_spec = {
            f"{side}.{name}": shape for side in ("left", "right") for name, shape in self.left.state_spec.items()
        }

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        left, right = _side("left", state), _side("right", state)
        after, left_end = self.left(x, left)
        before, right_end = self.right(x.flip(1), right)
        # What each stack knew one element before it came to t: its output, moved by one.
        y_left = torch.cat([self._knew(left)[:, None], after[:, :-1]], dim=1)
        y_right = torch.cat([before.flip(1)[:, 1:], self._knew(right)[:, None]], dim=1)
        return torch.cat([y_left, y_right.to(y_left.dtype)], dim=-1), _join(left_end, right_end)

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        """Both stacks read x, each in its own direction; the output is what they knew before they did.

        Walk from the left and keep the first half of the outputs, walk from the right and keep the second half, and
        you have `forward`.
        """
        left, right = _side("left", state), _side("right", state)
        y = torch.cat([self._knew(left), self._knew(right)], dim=-1)
        _, left_next = self.left.step(x, left)
        _, right_next = self.right.step(x, right)
        return y, _join(left_next, right_next)

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        """Those of both stacks, each in its own direction, as in `step`."""
        left = self.left.gate_activations(x, _side("left", state))
        return _join(left, self.right.gate_activations(x, _side("right", state)))

    def _knew(self, state: State) -> Float[Tensor, "batch hidden"]:
        """A stack's output before it reads on."""
        return joined([state[name] for name in self.left.seen])


def _side(side: str, state: State) -> State:
    return {name.removeprefix(f"{side}."): value for name, value in state.items() if name.startswith(f"{side}.")}


def _join(left: State, right: State) -> State:
    return {f"left.{name}": value for name, value in left.items()} | {
        f"right.{name}": value for name, value in right.items()
    }
