"""The linear recurrent unit: a complex diagonal recurrence whose eigenvalues are learned, the same for every input."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import linear, scan

R_MIN, R_MAX, PHASE = 0.9, 0.999, math.pi / 10  # of the eigenvalues at first: a ring near 1


class LRU(Recurrence):
    """h' = λ ⊙ h + γ ⊙ (B x) and y = Re(C h') + D x, λ = exp(−exp ν + i exp θ) (Orvieto et al. 2023, arXiv:2303.06349).

    γ begins as √(1 − |λ|²). Real and imaginary parts are states of their own.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"re": (hidden_size,), "im": (hidden_size,)}
        u, phase = torch.rand(hidden_size), torch.rand(hidden_size)
        radius = torch.sqrt(u * (R_MAX**2 - R_MIN**2) + R_MIN**2)
        self.nu = nn.Parameter(torch.log(-torch.log(radius)))
        self.theta = nn.Parameter(torch.log(PHASE * phase + 1e-4))
        self.gamma = nn.Parameter(torch.log(torch.sqrt(1 - radius**2)))
        self.B_re, self.B_im, self.D = (linear(input_size, hidden_size) for _ in range(3))
        self.C_re, self.C_im = (linear(hidden_size, hidden_size) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        Bx = torch.complex(*(part.to(state["re"].dtype) for part in self._driven(x)))
        hs, h = scan(torch.complex(*self._eigenvalues()), Bx, torch.complex(state["re"], state["im"]), reset)
        return self.C_re(hs.real) - self.C_im(hs.imag) + self.D(x), {"re": h.real, "im": h.imag}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        re, im = state["re"], state["im"]
        a, b = self._eigenvalues()
        u, v = self._driven(x)
        re, im = a * re - b * im + u, a * im + b * re + v  # λ h + γ B x
        return self.C_re(re) - self.C_im(im) + self.D(x), {"re": re, "im": im}

    def _eigenvalues(self) -> tuple[Tensor, Tensor]:
        radius, phase = torch.exp(-torch.exp(self.nu)), torch.exp(self.theta)
        return radius * torch.cos(phase), radius * torch.sin(phase)

    def _driven(self, x: Float[Tensor, "*batch input"]) -> tuple[Tensor, Tensor]:
        gamma = torch.exp(self.gamma)
        return gamma * self.B_re(x), gamma * self.B_im(x)
