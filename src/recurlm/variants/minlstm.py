"""minLSTM: an LSTM without what made it sequential. Its two gates add up to one."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import gate, positive, scan


class MinLSTM(Recurrence):
    """h' = f' ⊙ h + i' ⊙ g(W x), f' = f / (f + i), i' = i / (f + i) (Feng et al. 2024, arXiv:2410.01201).

    f = σ(Wf x), i = σ(Wi x), and g as in minGRU. The state is h itself; where the paper's listing takes a logarithm, a
    state that is carried on would pass g a second time.
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.Wf, self.Wi, self.Wh = (nn.Linear(input_size, hidden_size) for _ in range(3))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        f = self._forget(x)
        y, h = scan(f, (1 - f) * positive(self.Wh(x)), state["h"], reset)
        return y, {"h": h}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        f = self._forget(x)
        h = f * state["h"] + (1 - f) * positive(self.Wh(x))
        return h, {"h": h}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return {"forget": self._forget(x)}

    def _forget(self, x: Float[Tensor, "*batch input"]) -> Tensor:
        """f / (f + i) = σ(log f − log i), which is no 0 / 0 where both gates are closed."""
        return gate(F.softplus(-self.Wi(x)) - F.softplus(-self.Wf(x)))
